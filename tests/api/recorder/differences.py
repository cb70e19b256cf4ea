"""Where Fleet answers otherwise than the recorded kube-apiserver, and why. A test fails when an entry no longer differs."""

from __future__ import annotations

# name of the probe: (code of Fleet's first answer that differs, why)
DIFFERENT: dict[str, tuple[int, str]] = {}

# names of probes where code, reason and wrong fields are the same: why the rest is not
WORDS: dict[str, str] = {}


def _differs(code: int, why: str, names: str) -> None:
    DIFFERENT.update({name.strip(): (code, why) for name in names.split(";")})


def _words(why: str, names: str) -> None:
    WORDS.update({name.strip(): why for name in names.split(";")})


_500 = "the reference answers 500 without a reason to what the client did wrong"
_differs(422, _500, "apply key missing; apply key twice; apply set item twice; apply wrong type; apply wrong type list")
_differs(400, _500, "apply unknown strict; apply unknown metadata strict; create resource version set")
_differs(
    200, _500 + "; unknown fields are pruned, as for every other write", "apply unknown warn; apply unknown ignore"
)
_differs(409, _500 + "; a version that is no number is stale", "patch merge version garbage; replace version garbage")
_differs(
    200,
    "the reference leaves null where a container was emptied and refuses that itself; `{}` stays `{}`",
    "apply again map emptied; apply again struct emptied",
)
_differs(200, "null for a known field is an absent field, in an apply too", "apply again null; apply again null in map")
_differs(
    422,
    "a spec without its required fields is refused, also when there is no spec at all",
    "create spec missing; apply again spec away; patch merge spec away",
)
_differs(
    400,
    "strict decoding is one sentence for every verb; the reference puts the whole object into the message of a patch",
    "patch merge unknown strict; patch merge duplicate strict; patch json unknown strict; status unknown strict",
)
_differs(
    422,
    "one cause a mistake: the reference tells some twice, or with the field <nil>",
    "create wrong type int or string; create wrong type integer fraction; create wrong type keyed item; create bad generated name",
)
_differs(422, "keys of maps stand in brackets, because they may hold dots", "create wrong type map value")
_differs(422, "RFC 6902: replace needs a target; the reference makes it an add", "patch json replace missing")
_differs(405, "a verb that an address does not have is 405 before its body is read", "method PATCH on collection")
_differs(405, "a verb that an address does not have is 405 before its body is read", "method POST on object")
_differs(405, "a verb that an address does not have is 405 before its body is read", "method PUT on collection")
_differs(400, "a bad number or boolean in the query is told, not ignored", "list limit negative; apply force garbage")
_differs(409, "a version of an object that is gone is a stale version", "apply missing with version")
_differs(400, "without a content type a body is taken as JSON, here as a JSON patch", "patch without content type")
_words(
    "a sentence of our own about a body that cannot be read",
    "create not json; create empty body; create list body; create null body; create trailing garbage; create yaml bad; "
    "create yaml duplicate strict; apply garbage; apply list; apply empty; apply duplicate strict; patch merge list; "
    "patch merge garbage; patch merge empty; patch merge text; patch json not a list; delete body garbage; delete body list; "
    "create metadata of wrong type; create labels list; create label value number; create annotation value number; "
    "create bad name of wrong type; patch merge metadata away",
)
_words(
    "a JSON patch that does not apply says which operation and path",
    "patch json test fails; patch json remove missing; patch json index too large; patch json unknown op; patch json without path",
)
_words(
    "a sentence of our own about a bad query",
    "list selector unclosed; list selector without value; list selector two operators; list selector bad key; "
    "list selector bad value; list selector bad prefix; list selector long value; list selector not integer; "
    "list selector comma; list selector trailing comma; list field selector garbage; list limit garbage; "
    "list version garbage; list version negative; list continue garbage; list table bad include; list timeout garbage",
)
_words(
    "values of bad options are quoted otherwise",
    "create dry run bad; create field validation bad; create field manager too long; create field manager unprintable; "
    "patch merge dry run bad; patch merge validation bad; patch merge manager long; apply manager too long; "
    "delete dry run bad; delete policy bad",
)
_words(
    "protobuf is not served, so it is not named",
    "create as text; replace as text; get not acceptable; list not acceptable",
)
_words("a verb that is not served is named", "method DELETE on status; method unknown")
_words(
    "a sentence of our own about a body that does not say what it is; the body is not repeated, it may hold secrets",
    "create kind missing; create kind of wrong type; patch merge without kind",
)
_words(
    "it says which type it must be", "apply kind missing; apply kind wrong; apply version missing; apply version wrong"
)
_words("the kind is that of the address, not of the body", "create kind wrong; replace kind differs; patch merge kind")
_words("the reference prints the type of Go here", "replace without version; status replaced without version")
_words("a precondition of a delete fails as a stale write does", "delete with wrong uid; delete with wrong version")
_words("the words of the reference's storage are left out", "replace uid differs; delete then create again")
_words(
    "the reference tells the same mistake twice",
    "apply bad name; apply uid differs; patch merge uid; delete then new finalizer",
)
_words("problems stand in the order of the object's fields", "create several problems")
_words("the path is whole", "status wrong type")
_words("a too long name is told once", "create bad name too long")
_words("versions that do not exist have no fields to warn about", "create version wrong; patch merge version")
_words("no warning about a finalizer without a domain", "create finalizer unqualified")
_words(
    "generateName is used and not kept", "create generated name; apply generate name; create name and generated name"
)
_words("there is no garbage collector: owner references are dropped, not kept as a promise", "create owner reference")
_words(
    "`[]` forgets the owners like `[{}]`, as documented; the reference loses it on its way",
    "patch merge clears managed fields",
)
_words(
    "no time where nothing changed; the reference sees the status that it drops later", "status applied on main path"
)

LISTED = {*DIFFERENT, *WORDS}
