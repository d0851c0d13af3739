"""From a sentence found in a repository to a question that someone might ask.

Documentation says "Returns the list of known encodings."; people ask "which function returns the
list of known encodings?", "list of known encodings" or "where do we return the list …". The
templates are few and the choice among them is random but seeded, so that mining is repeatable.
"""

from __future__ import annotations

import random
import re

VERBS = frozenset(
    """abort accept access acquire activate adapt add adjust advance aggregate align allocate allow announce
    answer append apply ask assemble assert assign attach attempt authenticate avoid await begin bind block
    break bring broadcast buffer build bypass cache calculate call cancel capture cast catch change check
    choose clamp clean clear clone close coerce collapse collect combine compare compile complete compress
    compute configure confirm connect consider construct consume contain control convert copy correct count
    create customize deactivate debounce decide declare decode decompress decrease decrypt dedupe default
    defer define delay delegate delete deliver denote derive describe deserialize destroy detach detect
    determine disable disallow discard disconnect discover dispatch display dispose distinguish do download
    draw drop dump duplicate echo edit emit emulate enable encode encrypt enforce enqueue ensure enter
    enumerate erase escape establish evaluate evict examine exclude execute exit expand expect expire
    explain export expose extend extract fail fall feed fetch fill filter finalize find finish fire fix
    flag flatten flush fold follow force forget fork format forward free freeze generate get give grab
    group guard guess halt handle hash help hide highlight hold honor honour identify ignore implement
    import improve include increase increment indicate infer inherit init initialize inject insert inspect
    install instruct intercept interpolate interpret introduce invalidate invert invoke isolate iterate join
    jump keep kill launch let limit link list listen load locate lock log look loop lower maintain
    make manage map mark match measure merge migrate modify monitor mount move multiply mutate negotiate
    normalize notify obtain offer omit open optimize order output overload override overwrite pack pad parse
    pass patch pause peek perform permit persist pick ping pipe place poll pop populate postpone prefer
    prefix prepare prepend preserve prevent print process produce prompt propagate protect provide prune
    publish pull purge push put query queue quit quote raise randomize read rebuild receive recognize
    recompute reconnect record recover redirect reduce refer refresh refuse register reject relate release
    reload remember remove rename render reopen reorder repeat replace replay reply report represent request
    require rerun reschedule reserve reset resize resolve respect respond restart restore restrict resume
    retrieve retry return reuse reverse revert rewrite rotate round route run sanitize save scale scan
    schedule search seek select send separate serialize serve set shift show shrink shuffle shut signal
    simplify skip sleep slice sort spawn specify split squash stage start stop store stream strip submit
    substitute subscribe subtract suggest support suppress swap switch sync synchronize take tell terminate
    test throttle throw toggle track transfer transform translate traverse treat trigger trim truncate try
    turn unblock undo unescape uninstall unload unlock unmount unpack unregister unset unsubscribe unwrap
    update upgrade upload use validate verify visit wait walk warn watch wrap write yield zip""".split()
)

_ABBREVIATION = re.compile(r"\b(?:e\.g|i\.e|etc|vs|cf|approx|resp|incl|max|min|no|eg|ie)\.$", re.I)
_BOILERPLATE = re.compile(
    r"\bthis (?:class|instance|object|function|method|type|struct|enum|interface|error|option|value)\b|"
    r"copyright|licen[sc]e|all rights reserved|spdx|todo|fixme|xxx\b|\bhack\b|generated|do not edit|"
    r"do not modify|eslint|prettier|pylint|noqa|nolint|type: ignore|istanbul|pragma|clang-format|"
    r"shellcheck|"
    r"^(?:default |copy |move )?(?:constructor|destructor|getter|setter|accessor)\b|inheritdoc|"
    r"\b(?:constructor|destructor) (?:for|of)\b|initializes? a new instance|^see (?:also|the|https?)|"
    r"^same as\b|"
    r"^(?:gets|sets|gets or sets) the value|^(?:note|warning|deprecated|example|examples|usage)\b|"
    r"https?://|"
    r"^internal\b.{0,20}$|for internal use|not part of the public api|@\w+\.\w|^(?:this|it) (?:is|"
    r"was) (?:just )?"
    r"(?:needed|required|used|a hack)|lorem ipsum|implementation of \w+\.?$|"
    r"^implements? [`\w.:]+(?: for [`\w.:]+)?$|"
    r"^(?:private|public|protected) (?:method|api|constructor)|^utility (?:function|class)e?s?\.?$|^(?:or|"
    r"and|but) |"
    r"^constructs? (?:an?|the) (?:new )?\w+(?: object| instance)?$|^creates? (?:an?|the)? ?(?:new )?\w+"
    r"(?: object| instance)?$",
    re.I,
)  # fmt: skip
_WORD = re.compile(r"[A-Za-z][\w'-]*")
_CODE = re.compile(r"\w+(?:[_.:/]{1,2}\w+)+(?:\(\))?|[a-z]+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w*|\w+\(\)|[<>{}=\\|$%]")
_FILLER = frozenset(
    """a an the of to for in on at is are be was were been it its this that these those which and or with by
    from as if so then than can will should may must given our your their also just any all some when
    whether into""".split()
)
_CLAUSE = re.compile(
    r"^[^,]*?\b(?<!that )(?<!which )(?:is|are|was|were|should|must|can|will|may|has|have|does|do)\b"
)
_ADVERBS = frozenset("internally recursively automatically correctly properly always only also now".split())


def plain(text: str) -> str:
    """``text`` without the markup of doc comments, on one line."""
    text = re.sub(r"<see(?:also)?\s+\w+=\"(?:\w:)?([^\"]*?)\"\s*/>", lambda m: m[1].split(".")[-1], text)
    text = re.sub(r"<(?:paramref|typeparamref)\s+name=\"([^\"]*)\"\s*/>", r"\1", text)
    text = re.sub(r"</?[A-Za-z][^<>]*>", " ", text)
    text = re.sub(r"\{@\w+\s+([^{}]*)\}", r"\1", text)
    text = re.sub(r":[\w:+-]+:`~?([^`<]*?)(?:\s*<[^`>]*>)?`", r"\1", text)
    text = re.sub(r"!?\[([^\[\]]*)\](?:\([^()]*\)|\[[^\[\]]*\])", r"\1", text)
    text = re.sub(r"\[`([^`\[\]]*)`\]", r"\1", text)
    text = re.sub(r"`{1,2}([^`]*)`{1,2}_{0,2}", r"\1", text)
    text = re.sub(r"[\\@](?:brief|short|c|p|a|ref|b|e|em|n)\b", "", text)
    text = re.sub(r"\*\*?([^*]+)\*\*?", r"\1", text)
    text = re.sub(r"&(?:lt|gt|amp|quot|nbsp);", " ", text)
    return re.sub(r"\s+", " ", text).strip()


def sentence(text: str) -> str:
    """The first sentence of ``text``, without its full stop."""
    end = 0
    for match in re.finditer(r"[.!?:](?=\s|$)", text):
        end = match.end()
        if not _ABBREVIATION.search(text[:end]):
            return text[: end - 1].strip() if match[0] != "?" else text[:end].strip()
    return text.strip(" .")


def fit(text: str, fewest: int = 4, most: int = 30) -> bool:
    """Whether ``text`` may become a question: long enough, English prose, no boilerplate."""
    words = text.split()
    if not fewest <= len(words) <= most or _BOILERPLATE.search(text):
        return False
    letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
    real = [w for w in _WORD.findall(text) if w.lower() not in _FILLER]
    return (
        letters >= 0.88 * len(text)
        and len({w.lower() for w in real}) >= min(3, fewest)
        and len(_CODE.findall(text)) <= max(1, len(words) // 6)
        and text.count("(") == text.count(")")
        and text.count('"') % 2 == 0
    )


def base_form(word: str) -> str | None:
    """The infinitive of a verb that begins a sentence (Returns, Added, fix), None if it is none."""
    low = word.lower()
    guesses = [low]
    if low.endswith("ies"):
        guesses += [low[:-3] + "y"]
    if low.endswith("s") and not low.endswith("ss"):
        guesses += [low[:-1], low[:-2]]
    if low.endswith("ied"):
        guesses += [low[:-3] + "y"]
    if low.endswith(("ed", "ing")):
        stem = low[:-2] if low.endswith("ed") else low[:-3]
        guesses += [stem, stem + "e"]
        if len(stem) > 2 and stem[-1] == stem[-2]:
            guesses += [stem[:-1]]
    return next((g for g in guesses if g in VERBS), None)


def third(verb: str) -> str:
    """Third person of ``verb``: fetches, tries, sets."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")


def uncapital(text: str) -> str:
    """``text`` with a small first letter, unless its first word is a name or an acronym."""
    first = text.split(" ", 1)[0]
    return text[:1].lower() + text[1:] if first[1:] == first[1:].lower() else text


def keywords(text: str) -> str:
    """``text`` as typed into a search box."""
    words = [w.strip(",;:()\"'") for w in text.split()]
    kept = [w for w in words if w and w.lower() not in _FILLER]
    return " ".join(kept[:9])


def _verb_phrase(text: str) -> tuple[str, str] | None:
    """(infinitive, rest) where ``text`` begins with a verb: "Returns the x" -> ("return", "the x")."""
    head, _, rest = text.partition(" ")
    if head.lower() in _ADVERBS:
        head, _, rest = rest.partition(" ")
    verb = base_form(head)
    # "Log level for …", "Set of names": nouns that look like verbs.
    noun = re.match(r"(?:of|for|is|are|was|that|which|used|to)\b", rest) and verb == head.lower()
    if verb is None or noun:
        return None
    return verb, rest


def ask_doc(text: str, rng: random.Random, callable_: bool = True) -> str:
    """A question for the definition whose documentation begins with ``text``."""
    if text.endswith("?"):
        return text
    text = re.sub(r"^(?:This|The) (?:function|method|class|module|file|struct|type|helper|hook)\s+", "", text)
    text = re.sub(r"^(?:is|are|represents|contains|holds)\s+(?=(?:an?|the)\b)", "", text, flags=re.I)
    text = re.sub(r"^(?:is )?used to (?=\w+ )", "", text, flags=re.I)
    phrase = _verb_phrase(text)
    if re.match(r"\w+(?:ed|ing)\b", text) and not re.match(r"(?:need|embed|shed|bring|ping)\b", text, re.I):
        phrase = None  # "Failed to parse", "Caching of templates": states and things
    low = uncapital(text)
    if phrase:
        verb, rest = phrase
        noun = rng.choice(
            ("function", "code", "part of the code") if callable_ else ("code", "type", "setting")
        )
        templates = [
            low,
            f"{verb} {rest}",
            f"which {noun} {third(verb)} {rest}?",
            f"Where do we {verb} {rest}?",
            f"where does it {verb} {rest}?",
            f"how does it {verb} {rest}?",
            f"What {third(verb)} {rest}?",
            f"in which file do we {verb} {rest}?",
            f"which file {third(verb)} {rest}?",
            f"I need the code that {third(verb)} {rest}",
            keywords(f"{verb} {rest}"),
        ]
    elif re.match(r"(?:an?|the)\s", low, re.I) and not _CLAUSE.search(low):
        bare = re.sub(r"^(?:an?|the)\s+", "", low, flags=re.I)
        templates = [
            bare,
            low,
            f"where is the {bare} defined?",
            f"Where do I find the {bare}?",
            f"which file has the {bare}?",
            f"Where is the {bare} declared?",
            f"which part of the code is about the {bare}?",
            keywords(bare),
        ]
    elif re.match(r"(?:is|are|was|can|should|must|does|has|will)\s", low, re.I):
        templates = [
            f"what {low}?",
            f"which {'function' if callable_ else 'type'} {low}?",
            f"the thing that {low}",
        ]
    elif re.match(r"(?:whether|if(?!.*,)|when|how|why|where|what|which)\b", low, re.I):
        low = re.sub(r"^if\b", "whether", low)
        templates = [low, f"what decides {low}?", f"where is it decided {low}?", f"setting for {low}"]
        if not low.startswith("whether"):
            templates = [low, f"the code for {low}", keywords(low)]
    else:
        templates = [low, low, f"what is the code for this: {low}?", f"the part about {low}", keywords(low)]
    return _tidy(rng.choice(templates), text)


def ask_heading(title: str, parent: str, rng: random.Random) -> str:
    """A question for the section ``title`` below the heading ``parent`` (may be empty)."""
    low = uncapital(title)
    if title.endswith("?"):
        return title
    if len(title.split()) >= 3 and (not parent or rng.random() < 0.5):
        templates = [low, f"docs on {low}", f"where is {low} documented?", f"Where can I read about {low}?"]
        head, _, rest = title.partition(" ")
        verb = base_form(head)
        if verb and head.lower().endswith("ing"):
            templates += [f"how do I {verb} {rest}?", f"guide for {low}", f"how to {verb} {rest}"]
        elif verb and head.lower() == verb:
            templates += [f"how do I {low}?", f"how to {low}"]
    else:
        above = parent if re.match(r"[A-Z]{2}", parent) else uncapital(parent)
        templates = [
            f"{above}: {low}",
            f"{low} ({above})",
            f"docs on {low} for {above}",
            f"where do the docs on {above} explain {low}?",
            f"{above} {low} documentation",
        ]
    return _tidy(rng.choice(templates), title)


def ask_config(text: str, rng: random.Random) -> str:
    """A question for the configuration key whose comment begins with ``text``."""
    low = uncapital(text)
    phrase = _verb_phrase(text)
    templates = [low, f"setting: {low}", keywords(low)]
    if phrase:
        verb, rest = phrase
        templates += [f"where is it configured to {verb} {rest}?", f"which setting makes it {verb} {rest}?"]
    elif re.match(r"(?:an?|the)\s", low, re.I):
        templates += [f"where is {low} configured?", f"Where can I change {low}?"]
    return _tidy(rng.choice(templates), text)


def ask_commit(text: str, rng: random.Random) -> str:
    """A question whose answer is where the change described by ``text`` was made."""
    low = uncapital(text)
    phrase = _verb_phrase(text)
    templates = [low, f"which code is responsible: {low}?"]
    if phrase:
        verb, rest = phrase
        if verb == "fix":
            rest = re.sub(
                r"^(?:an? |the |some )?(?:(?:bug|issue|problem|error)s? (?:where|when|with|in|that) )?",
                "",
                rest,
            )
            templates = [low, rest, rest, f"where is this dealt with: {rest}?", keywords(rest)]
        elif verb in ("add", "implement", "introduce", "support", "provide", "expose"):
            rest = re.sub(r"^(?:an?|the|new|missing)\s+", "", rest)
            of = f"support for {rest}" if verb == "support" else rest
            templates = [
                low,
                of,
                f"where is the {of} implemented?",
                f"which file has the {of}?",
                keywords(of),
            ]
        elif verb != "make":
            templates = [
                f"{verb} {rest}",
                f"where does it {verb} {rest}?",
                f"Where do we {verb} {rest}?",
                f"which code {third(verb)} {rest}?",
                keywords(f"{verb} {rest}"),
            ]
        else:
            templates = [low, rest, f"where do we make {rest}?", keywords(rest)]
    return _tidy(rng.choice(templates), text)


def _tidy(question: str, fallback: str) -> str:
    question = re.sub(r"\s+", " ", question).strip(" ,;:-")
    question = re.sub(r"\bthe (?=(?:the|an?|this|that|our|your)\b)", "", question)
    return question if len(question.split()) >= 3 else uncapital(fallback)
