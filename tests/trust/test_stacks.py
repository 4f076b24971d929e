"""Deep recursion in a handler is a RecursionError and never the end of the process, with the default stack."""

from __future__ import annotations

import signal

import pytest
from trust_client import BEGIN, SOON, Prepare, get, lost, members, parked, request

# Each kind recurses until Python says so, or 1,000 deep where it never does; all end well in 8 MiB of stack.
KINDS = """
import ast, copy, functools, itertools, json, operator, pickle, re, tomllib, types, xml.etree.ElementTree
import collections, dataclasses, decimal, html.parser, logging, marshal, typing, configparser, string, enum, abc

def nested(depth=100_000, make=lambda inner: [inner]):
    value = make(None)
    for _ in range(depth):
        value = make(value)
    return value

class Attribute:
    def __getattr__(self, name): return self.missing
class Setting:
    def __setattr__(self, name, value): setattr(self, name, value)
class Property:
    @property
    def value(self): return self.value
class Represented:
    def __repr__(self): return f"<{self!r}>"
class Shown:
    def __str__(self): return str(self)
class Formatted:
    def __format__(self, spec): return f"{self:{spec}}"
class Compared:
    def __eq__(self, other): return self == other
    def __lt__(self, other): return self < other
    def __hash__(self): return hash(self)
class Called:
    def __call__(self): return self()
class Item:
    def __getitem__(self, key): return self[key]
    def __len__(self): return len(self)
    def __bool__(self): return bool(self)
    def __contains__(self, one): return one in self
    def __index__(self): return operator.index(self)
class Added:
    def __add__(self, other): return self + other
    def __radd__(self, other): return other + self
class Iterated:
    def __iter__(self): return iter(list(self))
class Hint:
    def __length_hint__(self): return operator.length_hint(self)
class Meta(type):
    def __instancecheck__(cls, one): return isinstance(one, cls)
    def __subclasscheck__(cls, one): return issubclass(one, cls)
class Checked(metaclass=Meta): pass
class Context:
    def __enter__(self):
        with self: pass
    def __exit__(self, *_): pass
class Reduced:
    def __reduce__(self): return (Reduced, (Reduced(),))
class Copied:
    def __deepcopy__(self, memo): return copy.deepcopy(self)
class Descriptor:
    def __get__(self, one, kind): return getattr(one, "made")
class Described:
    made = Descriptor()
class Initialised:
    def __init__(self): Initialised()
class Made:
    def __new__(cls): return cls()
class Mapping(dict):
    def __missing__(self, key): return self[key]
class Encoder(json.JSONEncoder):
    def default(self, one): return [object()]
class Template(string.Formatter):
    def get_field(self, name, *rest): return self.vformat("{0}", (1,), {}), name
@dataclasses.dataclass
class Node:
    inner: object
def plain(): return plain()
def generator(): yield from generator()
def comprehension(): return [comprehension() for _ in "1"]
def sorting(*_): return sorted([1, 2], key=sorting)
def mapping(*_): return list(map(mapping, [1]))
def reducing(*_): return functools.reduce(reducing, [1, 2])
def filtering(*_): return list(filter(filtering, [1]))
def substituting(*_): return re.sub("a", substituting, "a")
def hooking(*_): return json.loads("{}", object_hook=hooking)
def partial(): return functools.partial(partial)()
@functools.lru_cache(maxsize=None)
def cached(n): return cached(n + 1)
@functools.singledispatch
def dispatched(n): return dispatched(n)
def evaluating(): return eval("evaluating()", globals())
def executing(): exec("executing()", globals())
def finally_():
    try: return finally_()
    finally: pass
def excepting():
    try: return excepting()
    except RecursionError: return excepting()
def keywords(**k): return keywords(**k)
def maximum(*_): return max([1, 2], key=maximum)
def method_caller(): return operator.methodcaller("__call__")(method_caller)
def importing(): return __import__("functools").partial(importing)()
def logging_():
    class Odd:
        def __str__(self): logging.getLogger("odd").warning("%s", self); return ""
    return str(Odd())
def joined(): return ",".join(x for x in [joined()])
def data_equal(): return nested(make=Node) == nested(make=Node)

K = {
    "literal": lambda: ast.literal_eval("-" * 3000 + "1"),
    "literal_brackets": lambda: ast.literal_eval("(" * 190 + ")" * 190),
    "literal_dicts": lambda: ast.literal_eval("{1:" * 190 + "1" + "}" * 190),
    "literal_sums": lambda: ast.literal_eval("1" + "+1j" * 3000),
    "compile": lambda: compile("-" * 20_000 + "1", "x", "eval"),
    "compile_calls": lambda: compile("f" + "()" * 20_000, "x", "eval"),
    "compile_attributes": lambda: compile("f" + ".a" * 20_000, "x", "eval"),
    "compile_sums": lambda: compile("1" + "+1" * 20_000, "x", "eval"),
    "compile_not": lambda: compile("not " * 20_000 + "1", "x", "eval"),
    "compile_lambdas": lambda: compile("lambda:" * 5_000 + "1", "x", "eval"),
    "compile_conditions": lambda: compile("1 if 1 else " * 5_000 + "1", "x", "eval"),
    "compile_blocks": lambda: compile("".join(" " * n + "if 1:\\n" for n in range(90)) + " " * 90 + "1", "x", "exec"),
    "regex": lambda: re.compile("(" * 5_000 + ")" * 5_000),
    "regex_optional": lambda: re.compile("(?:a" * 3_000 + ")?" * 3_000).match("a" * 3_000),
    "json_lists": lambda: json.loads("[" * 100_000),
    "json_dicts": lambda: json.loads('{"a":' * 100_000),
    "json_dump": lambda: json.dumps(nested()),
    "json_dump_dicts": lambda: json.dumps(nested(make=lambda inner: {"a": inner})),
    "json_default": lambda: json.dumps(object(), cls=Encoder),
    "json_hook": hooking,
    "pickle": lambda: pickle.dumps(nested()),
    "pickle_python": lambda: pickle._dumps(nested()),
    "pickle_reduce": lambda: pickle.dumps(Reduced()),
    "marshal": lambda: marshal.dumps(nested()),
    "marshal_load": lambda: marshal.loads(b"[\\x01\\0\\0\\0" * 100_000),
    "toml": lambda: tomllib.loads("a = " + "[" * 10_000),
    "toml_tables": lambda: tomllib.loads("a = " + "{a=" * 10_000),
    "xml": lambda: xml.etree.ElementTree.fromstring("<a>" * 50_000 + "</a>" * 50_000),
    "xml_write": lambda: xml.etree.ElementTree.tostring(
        xml.etree.ElementTree.fromstring("<a>" * 50_000 + "</a>" * 50_000)),
    "copy": lambda: copy.deepcopy(nested()),
    "copy_self": lambda: copy.deepcopy(Copied()),
    "repr_lists": lambda: repr(nested()),
    "repr_dicts": lambda: repr(nested(make=lambda inner: {1: inner})),
    "repr_tuples": lambda: repr(nested(make=lambda inner: (inner,))),
    "repr_nodes": lambda: repr(nested(make=Node)),
    "repr_namespaces": lambda: repr(nested(3000, make=lambda inner: types.SimpleNamespace(a=inner))),
    "repr_deques": lambda: repr(nested(3000, make=lambda inner: collections.deque([inner]))),
    "repr_partials": lambda: repr(nested(3000, make=lambda inner: functools.partial(int, inner))),
    "equal_lists": lambda: nested() == nested(),
    "equal_dicts": lambda: nested(make=lambda inner: {1: inner}) == nested(make=lambda inner: {1: inner}),
    "equal_tuples": lambda: nested(make=lambda inner: (inner,)) == nested(make=lambda inner: (inner,)),
    "equal_nodes": data_equal,
    "less_lists": lambda: nested() < nested(),
    "hash_tuples": lambda: hash(nested(1000, make=lambda inner: (inner,))),
    "isinstance_tuples": lambda: isinstance(1, nested(make=lambda inner: (inner,) if inner else (str,))),
    "destroyed_lists": lambda: nested() and None,
    "destroyed_nodes": lambda: nested(make=Node) and None,
    "destroyed_generators": lambda: nested(50_000, make=lambda inner: (x for x in [inner])) and None,
    "chains": lambda: list(nested(1000, make=lambda inner: itertools.chain(inner or []))),
    "maps": lambda: list(nested(1000, make=lambda inner: map(str, inner or []))),
    "zips": lambda: list(nested(1000, make=lambda inner: zip(inner or []))),
    "attribute": lambda: Attribute().anything,
    "setting": lambda: setattr(Setting(), "a", 1),
    "property": lambda: Property().value,
    "repr": lambda: repr(Represented()),
    "str": lambda: str(Shown()),
    "format": lambda: f"{Formatted():x}",
    "formatter": lambda: Template().format("{0}", 1),
    "format_spec": lambda: ("{:" * 100 + "}" * 100).format(*range(200)),
    "equal": lambda: Compared() == 1,
    "less": lambda: Compared() < 1,
    "hash": lambda: hash(Compared()),
    "call": lambda: Called()(),
    "item": lambda: Item()[0],
    "missing": lambda: Mapping()["a"],
    "len": lambda: len(Item()),
    "bool": lambda: bool(Item()),
    "contains": lambda: 1 in Item(),
    "index": lambda: operator.index(Item()),
    "add": lambda: Added() + 1,
    "radd": lambda: 1 + Added(),
    "iter": lambda: iter(Iterated()),
    "hint": lambda: operator.length_hint(Hint()),
    "instance": lambda: isinstance(1, Checked),
    "subclass": lambda: issubclass(int, Checked),
    "context": lambda: Context().__enter__(),
    "descriptor": lambda: Described().made,
    "init": lambda: Initialised(),
    "new": lambda: Made(),
    "plain": plain,
    "generator": lambda: list(generator()),
    "comprehension": comprehension,
    "sorted": sorting,
    "max": maximum,
    "map": mapping,
    "reduce": lambda: reducing(),
    "filter": filtering,
    "sub": lambda: substituting(),
    "partial": partial,
    "cached": lambda: cached(0),
    "dispatched": lambda: dispatched(1),
    "eval": evaluating,
    "exec": executing,
    "finally": finally_,
    "keywords": lambda: keywords(a=1),
    "methodcaller": method_caller,
    "import": importing,
    "logging": logging_,
    "join": joined,
}
"""

HANDLERS = (
    BEGIN
    + KINDS
    + """
@routes.get("/kinds")
def kinds(request):
    return list(K)

@routes.get("/kind/{name}")
def kind(request):
    try:
        K[request.params["name"]]()
    except Exception as error:
        return type(error).__name__
    return "no error"

@routes.post("/json")
def parse(request):
    return type(request.json()).__name__

@routes.post("/literal")
def literal(request):
    try:
        return type(ast.literal_eval(request.text())).__name__
    except Exception as error:
        return type(error).__name__
"""
)


def test_no_kind_of_recursion_ends_the_process(prepare: Prepare, pool: str) -> None:
    """One after the other, on connections of their own; a process that ended is named with its kind."""
    service = prepare(pool, HANDLERS)
    service.expect_errors = True
    service.start("-n", "2", "-m", "2", "-t", "--fast-max", "1000", "--drain-timeout", "5")
    names = get(service, "/kinds").json()
    harm = {}
    for name in names:
        try:
            answer = get(service, f"/kind/{name}", deadline=20)
        except OSError as error:
            harm[name] = type(error).__name__
            service.wait_workers(2)
        else:
            assert answer.status in (200, 500), name
    print(f"{len(harm)} of {len(names)} kinds ended the process")
    assert not harm, f"{len(harm)} of {len(names)}: {harm}"
    assert not service.log.find("SIGSEGV|signal 11")


BODIES = {
    "json lists, 18 KB": ("/json", "[" * 9000 + "]" * 9000, 400),
    "json dicts, 18 KB": ("/json", '{"a":' * 3000 + "1" + "}" * 3000, 400),
    "json lists, 900": ("/json", "[" * 900 + "]" * 900, 200),
    "json strings": ("/json", '["' * 9000, 400),
    "literal, 380 bytes": ("/literal", "(" * 190 + ")" * 190, 200),
    "literal, signs": ("/literal", "-" * 5000 + "1", 200),
    "literal, sums": ("/literal", "1" + "+1" * 5000, 200),
    "literal, brackets": ("/literal", "[" * 5000 + "]" * 5000, 200),
}


@pytest.mark.parametrize("case", BODIES)
def test_nested_input_of_a_client_ends_nothing(prepare: Prepare, pool: str, case: str) -> None:
    """Refused or answered, several times at once, and all connections beside it live on."""
    path, body, status = BODIES[case]
    service = prepare(pool, HANDLERS)
    service.expect_errors = True
    service.start("-n", "2", "-m", "2", "-t")
    before = members(service)
    with parked(service, 8) as others:
        for _ in range(3):
            data = f"POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            answer = request(service, data)
            assert answer.status in (status, 400), answer
        assert lost(others) == 0
    assert members(service) == before


def test_deep_call_leaves_a_margin(prepare: Prepare, pool: str) -> None:
    """At the edge of the recursion limit a handler still logs a traceback and uses its libraries."""
    service = prepare(
        pool,
        HANDLERS
        + """
@routes.get("/edge")
def edge(request):
    import traceback
    def down(depth):
        if depth:
            return down(depth - 1)
        try:
            plain()
        except RecursionError:
            logging.getLogger("edge").exception("at the edge")
        for name in ("attribute", "sorted", "sub", "sum", "json_lists", "literal_brackets", "regex"):
            try:
                K.get(name, plain)()
            except Exception:
                traceback.format_exc()
        return "well"
    return down(700)
""",
    )
    service.expect_errors = True
    service.start("-n", "1", "-m", "1", "-t")
    assert get(service, "/edge", deadline=20).body == b"well"


def test_traceback_of_a_stack_overflow_reaches_the_log(prepare: Prepare, pool: str) -> None:
    """The stack of a thread is too small on purpose: the crash is named with its signal and its Python traceback."""
    service = prepare(
        pool,
        HANDLERS
        + """
def init(server):
    server.set_stack_size(131072)

@routes.get("/overflow")
def overflow(request):
    sys.setrecursionlimit(10**9)
    return repr(nested(1_000_000))
""",
    )
    service.expect_errors = True
    service.start("-n", "1", "-m", "1", "-t")
    with service.wire() as wire:
        wire.send("GET /overflow HTTP/1.1\r\nHost: test\r\n\r\n")
        service.log.wait_for(rf"SIGSEGV|signal {signal.SIGSEGV.value}\b", deadline=20)
    service.log.wait_for(r"Fatal Python error|Segmentation fault", deadline=SOON)
    service.log.wait_for(r"in overflow\b", deadline=SOON)


def test_ten_thousand_threads_remain_possible(prepare: Prepare) -> None:
    """By set_stack_size, whatever the default is: here 1,500 for the sake of speed, of 128 KiB each."""
    service = prepare(
        "threaded",
        BEGIN
        + """
def init(server):
    server.set_stack_size(131072)
""",
    )
    service.start("-n", "1500", "-m", "1500", "-t")
    assert get(service).status == 200
    host = service.wait_workers(1)[0]
    mapped = int(open(f"/proc/{host}/status").read().partition("VmPeak:")[2].split()[0]) * 1024  # noqa: SIM115
    assert mapped < 1500 * 131072 + 2**31
