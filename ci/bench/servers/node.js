// The same application on Node's own server, two processes.
const cluster = require("node:cluster");
const http = require("node:http");
const [port, workers] = process.argv.slice(2).map(Number);
const large = Buffer.alloc(2 ** 20);

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i++) cluster.fork();
} else {
  http.createServer((request, response) => {
    const answer = (body) => {
      response.writeHead(200, { "Content-Type": "application/octet-stream", "Content-Length": Buffer.byteLength(body) });
      response.end(body);
    };
    if (request.url === "/json") {
      const parts = [];
      request.on("data", (part) => parts.push(part));
      request.on("end", () => answer(JSON.stringify(JSON.parse(Buffer.concat(parts)))));
    } else if (request.url === "/sleep") {
      setTimeout(() => answer("Hello, world!"), 5);
    } else {
      answer(request.url === "/large" ? large : "Hello, world!");
    }
  }).listen(port, "127.0.0.1");
}
