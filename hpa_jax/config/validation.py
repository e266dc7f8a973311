"""What a config may hold: every option is checked against its statement before any work is done.

In: a whole config and the statement of defaults.py.  Out: nothing, or an error of one line with the
key, its value, what it can be and the nearest valid name.  What one option says about another is
checked below, by the function that reads both where there is one; none of it needs data.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import options, renamed
from hpa_jax.config.options import Option, Statement
from hpa_jax.core.errors import InputError, near

PROTOCOLS = "hpa_jax.decision.stack.protocols:of_config"
SMALL = 100  # pixels; every backbone takes as many, so that none is imported to ask


def validate(config: ConfigDict) -> None:
    """Checks every name, type, choice and range, and what options say about each other.

    Raises:
        InputError: names the key, its value, and what it can be.
    """
    _check_section(config, configs.OPTIONS, "")
    if len(config.classes) < 1 or len(set(config.classes)) != len(config.classes):
        raise InputError("config.classes: needs at least one name, each once")
    for number, source in enumerate(config.data.sources):
        _check_source(source, f"data.sources[{number}]", config.data.source)
    for name in config.models:
        if name == configs.RETRIEVAL:
            raise InputError(f"config.models.{name}: this name is metric learning's (--only)")
        if not name.isidentifier():
            path = options.joined("models", name)
            raise InputError(f"config.{path}: a model's name is letters, digits and _")
        _check_model(config, f"models.{name}")
    configs.in_training_order(config.models)
    for where in ("adversarial.model", "retrieval.model"):
        if _at(config, where).frozen.head:
            raise InputError(f"config.{where}.frozen.head: for networks of config.models alone")
    _check_model(config, "adversarial.model")
    if not config.adversarial.sources:
        raise InputError("config.adversarial.sources=(): at least one of train, external, own")
    if config.retrieval.model.head != "embedding":
        head = config.retrieval.model.head
        raise InputError(f"config.retrieval.model.head={head!r}: needs to be embedding")
    _check_model(config, "retrieval.model")
    _check_decision(config)


def _check_section(section: Any, statement: Statement, where: str) -> None:
    """Each option of a section, and of what is below it, by the statement."""
    if not isinstance(section, Mapping | ConfigDict):
        raise InputError(f"config.{where}={section!r}: needs options: {', '.join(statement)}")
    for name, value in section.items():
        path = options.joined(where, str(name))
        if name not in statement:
            raise InputError(f"config.{path}: no such option{renamed.hint(path, statement)}")
        stated = statement[name]
        if isinstance(stated, Option):
            _check_option(value, stated, path)
        else:
            _check_section(value, stated, path)


def _check_option(value: Any, stated: Option, path: str) -> None:
    if not options.of_kind(value, stated.kinds):
        words = options.kinds_in_words(stated.kinds)
        possible = f"; {stated.possible()}" if stated.possible() else ""
        raise InputError(f"config.{path}={_plain(value)!r}: needs to be {words}{possible}")
    if stated.form:
        if _plain(value) == _plain(stated.value()):  # needs no check, and no module that checks
            return
        return _check_section(value, stated.form, path)
    if isinstance(value, tuple | list):
        items = {options.joined(path, number): item for number, item in enumerate(value)}
    elif isinstance(value, Mapping | ConfigDict) and (stated.each or stated.items):
        items = {options.joined(path, name): item for name, item in value.items()}
    else:
        items = {}
        _check_value(value, stated, path)
    kinds = stated.items or ((str,) if stated.choices else ())
    for place, item in items.items():
        if stated.each:
            _check_section(item, stated.each, place)
            continue
        if kinds and not options.of_kind(item, kinds):
            words = options.kinds_in_words(kinds)
            raise InputError(f"config.{place}={_plain(item)!r}: needs to be {words}")
        _check_value(item, stated, place)
    if stated.check and value is not None and _plain(value) != _plain(stated.value()):
        _ask(stated.check, path, _plain(value))


def _check_value(value: Any, stated: Option, path: str) -> None:
    """Choices of a text, range of a number."""
    if isinstance(value, str) and not stated.fits(value):
        names = stated.names()
        raise InputError(
            f"config.{path}={value!r}: one of {', '.join(map(_quoted, names))}{near(value, names)}"
        )
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (abs(value) >= 2**63 or not stated.inside(value)):
        words = stated.range() or "a finite number"
        words += ", of 64 bits" if abs(value) >= 2**63 else ""
        raise InputError(f"config.{path}={value}: needs to be {words}")


def _ask(place: str, path: str, *arguments: Any) -> None:
    """Lets the function that reads an option refuse it; its message gets the whole path.

    Raises:
        InputError: it did.
    """
    try:
        options.at(place)(*arguments)
    except InputError as error:
        above, _, name = path.rpartition(".")
        text = str(error)
        if text.startswith((f"{name}.", f"{name}=", f"{name}:")):
            raise InputError(f"config.{above}.{text}" if above else f"config.{text}") from None
        raise InputError(f"config.{path}: {text}") from None
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError) as error:
        text = " ".join(str(error).split())
        raise InputError(f"config.{path}={arguments[-1]!r}: {text}") from None


def _check_source(source: Any, where: str, default_kind: str) -> None:
    """One of data.sources: the options of its kind."""
    kind = dict(source).get("source", default_kind)
    _check_option(kind, configs.SOURCE_KIND, f"{where}.source")
    statement = {**configs.SOURCE, **configs.OF_SOURCE.get(kind, {})}
    try:
        _check_section(source, statement, where)
    except InputError as error:
        raise InputError(f"{error} (source {kind})" if "no such" in str(error) else error) from None


def _check_model(config: ConfigDict, where: str) -> None:
    """What the options of a model say about each other."""
    model = _at(config, where)
    _check_frozen(model, where)
    if not model.phases:
        raise InputError(f"config.{where}.phases=(): needs at least one phase(...)")
    ends = [f"phase:{number}" for number in range(len(model.phases))]
    ends += [f"epoch:{epoch}" for epoch in model.keep_epochs]
    if ":" in model.checkpoint and model.checkpoint not in ends:
        raise InputError(
            f"config.{where}.checkpoint={model.checkpoint!r}: of these {', '.join(ends)}"
        )
    left_out = model.left_out
    if left_out and not (len(left_out) == 2 and 0 <= left_out[0] < left_out[1]):
        raise InputError(f"config.{where}.left_out={left_out}: (k, n) with 0 <= k < n")
    for name in model.classes:
        if name not in config.classes:
            hint = near(name, config.classes)
            raise InputError(f"config.{where}.classes: no class {name!r}{hint}")
    if not model.channels or len(set(model.channels)) != len(model.channels):
        raise InputError(f"config.{where}.channels={model.channels}: at least one, each once")
    if model.batch_size % model.accumulate:
        raise InputError(
            f"config.{where}.accumulate={model.accumulate}: does not divide the batch of "
            f"{model.batch_size}"
        )
    of_head = options.names_at(f"hpa_jax.models.heads:HEADS.{model.head}")
    for name in model.head_options:
        if name not in of_head:
            path = options.joined(f"{where}.head_options", name)
            raise InputError(f"config.{path}: head {model.head} has none{near(name, of_head)}")
    if model.image_size < SMALL or model.large_stem or model.as_run:
        form = (model.backbone, model.image_size, model.large_stem, model.as_run)
        _ask("hpa_jax.models.registry:check", f"{where}.backbone={model.backbone!r}", *form)
    if (model.normalize, *model.channels) != ("hpa", *options.names_at(configs.CHANNELS)):
        _ask("hpa_jax.models.normalization:normalizer", where, model.normalize, model.channels)
    for number, given in enumerate(model.phases):
        phase = configs.phase(**dict(given))
        path = f"{where}.phases[{number}]"
        if phase.epochs % phase.cycles:
            raise InputError(
                f"config.{path}.cycles={phase.cycles}: must divide its {phase.epochs} epochs"
            )
        if phase.schedule not in options.names_at("hpa_jax.training.schedules:NAMES"):
            _ask("hpa_jax.training.schedules:table", f"{path}.schedule", phase.schedule)


def _check_frozen(model: ConfigDict, where: str) -> None:
    """What a head on stored embeddings leaves no choice for."""
    if not model.frozen.head:
        return
    if configs.started_from(model):
        raise InputError(
            f"config.{where}.init_from={model.init_from!r}: a frozen network is run before any "
            "training; train that one in a run of its own and name its folder here"
        )
    changed = {"augment": model.augment} | {
        f"phases[{number}].augment": dict(phase).get("augment")
        for number, phase in enumerate(model.phases)
    }
    for key, augment in changed.items():
        if augment not in ("none", None):
            raise InputError(
                f"config.{where}.{key}={_plain(augment)!r}: a head on stored embeddings is trained "
                "on the views they are stored in; augment='none', and more views"
            )


def _at(config: ConfigDict, where: str) -> Any:
    node: Any = config
    for part in where.split("."):
        node = node[part]
    return node


def _check_decision(config: ConfigDict) -> None:
    """What the options of blends, thresholds, stack and submission say about each other."""
    of_stack: Any = configs.OPTIONS["stack"]
    for name, own in config.stack.of_class.items():
        path = options.joined("stack.of_class", name)
        if not isinstance(own, Mapping | ConfigDict):
            raise InputError(f"config.{path}={own!r}: needs to be a mapping of settings")
        for key, value in own.items():
            stated = of_stack.get(key)
            if isinstance(stated, Option):  # what is no option the stack's protocol checks
                _check_option(value, stated, options.joined(path, key))
    try:
        options.at(PROTOCOLS)(config.stack.to_dict(), config.classes)
    except InputError as error:
        raise InputError(f"config.{error}") from None
    except (TypeError, ValueError) as error:
        raise InputError(
            f"config.stack.of_class={_plain(config.stack.of_class)}: {error}"
        ) from None
    method = config.submission.method
    methods = ("auto", *configs.METHODS, *config.models)
    if method not in methods:
        hint = near(method, methods)
        raise InputError(f"config.submission.method={method!r}: one of {', '.join(methods)}{hint}")
    if method == "ensemble" and not configs.has_ensemble(config):
        raise InputError('config.submission.method="ensemble": config.ensemble names none')
    for name in config.embeddings.pca:
        _check_stored(config, name, f"embeddings.pca.{name}")
    if name := config.retrieval.embeddings_of:
        _check_stored(config, name, f"retrieval.embeddings_of={name!r}")
    weights, thresholds = config.ensemble.weights, config.thresholds
    for name in weights:
        if name not in config.models:
            path = options.joined("ensemble.weights", name)
            raise InputError(f"config.{path}: no model{near(name, config.models)}")
    if weights and config.ensemble.method in ("likelihood", "greedy"):
        raise InputError(f"config.ensemble.weights: method {config.ensemble.method} fits its own")
    for key, counts in (("proportions", (0,)), ("scale", (1,))):
        if len(thresholds[key]) not in (*counts, len(config.classes)):
            raise InputError(
                f"config.thresholds.{key}: {len(thresholds[key])} numbers, "
                f"{len(config.classes)} classes"
            )
    matching = thresholds.method.startswith("match_proportions")
    if thresholds.match_on == "test" and (not matching or thresholds.shrink):
        raise InputError("config.thresholds.match_on=test: for match_proportions without shrink")
    trained = config.split.trained_folds
    if not set(trained) <= set(range(config.split.folds)):
        raise InputError(f"config.split.trained_folds={trained}: of 0 to {config.split.folds - 1}")


def _check_stored(config: ConfigDict, name: str, where: str) -> None:
    """Refuses a name of no model, and of one whose embeddings are not stored."""
    if name not in config.models:
        raise InputError(f"config.{where}: no model {name!r}{near(name, config.models)}")
    if not config.models[name].frozen.head:
        raise InputError(
            f"config.{where}: {name} has no frozen.head: the networks of its folds would have "
            "spaces of their own"
        )


def _quoted(name: str) -> str:
    return name or '""'


def _plain(value: Any) -> Any:
    """ConfigDicts as dicts, for messages and the functions that read them."""
    if isinstance(value, Mapping | ConfigDict):
        return {name: _plain(item) for name, item in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, tuple | list) else value
