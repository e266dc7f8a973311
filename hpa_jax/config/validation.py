"""Validation of a config: every option is checked against its definition before any work.

In: a whole config and the statement of defaults.py.  Out: nothing, or an error of one line with the
key, its value, the valid values and the nearest valid name.  Constraints between options are
checked by the function that uses them if there is one; no data is needed.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.config import defaults as configs
from hpa_jax.config import options, renamed
from hpa_jax.config.options import Option, Statement
from hpa_jax.core.errors import InputError, near

PROTOCOLS = "hpa_jax.decision.stack.protocols:of_config"
SMALL = 100  # pixels; accepted by every backbone, so that none is imported for the check


def validate(config: ConfigDict) -> None:
    """Check every name, type, choice and range, and constraints between options.

    Raises:
        InputError: names the key, its value and the valid values.
    """
    _check_section(config, configs.OPTIONS, "")
    if len(config.classes) < 1 or len(set(config.classes)) != len(config.classes):
        raise InputError("config.classes: must be distinct names, at least one")
    for number, source in enumerate(config.data.sources):
        _check_source(source, f"data.sources[{number}]", config.data.source)
    for name in config.models:
        if name == configs.RETRIEVAL:
            raise InputError(f"config.models.{name}: the name is reserved for metric learning")
        if not name.isidentifier():
            path = options.joined("models", name)
            raise InputError(f"config.{path}: a model's name is letters, digits and _")
        _check_model(config, f"models.{name}")
    configs.in_training_order(config.models)
    for where in ("adversarial.model", "retrieval.model"):
        if _at(config, where).frozen.head:
            raise InputError(f"config.{where}.frozen.head: only for networks of config.models")
    _check_model(config, "adversarial.model")
    if not config.adversarial.sources:
        raise InputError("config.adversarial.sources=(): at least one of train, external, own")
    if config.retrieval.model.head != "embedding":
        head = config.retrieval.model.head
        raise InputError(f"config.retrieval.model.head={head!r}: must be embedding")
    _check_model(config, "retrieval.model")
    _check_decision(config)


def _check_section(section: Any, statement: Statement, where: str) -> None:
    """Check each option of a section, recursively."""
    if not isinstance(section, Mapping | ConfigDict):
        raise InputError(f"config.{where}={section!r}: needs options: {', '.join(statement)}")
    for name, value in section.items():
        path = options.joined(where, str(name))
        if name not in statement:
            raise InputError(f"config.{path}: unknown option{renamed.hint(path, statement)}")
        option = statement[name]
        if isinstance(option, Option):
            _check_option(value, option, path)
        else:
            _check_section(value, option, path)


def _check_option(value: Any, option: Option, path: str) -> None:
    if not options.of_kind(value, option.kinds):
        words = options.kinds_in_words(option.kinds)
        possible = f"; {option.possible()}" if option.possible() else ""
        raise InputError(f"config.{path}={_plain(value)!r}: must be {words}{possible}")
    if option.form:
        if _plain(value) == _plain(option.value()):  # avoids importing a module for the check
            return
        return _check_section(value, option.form, path)
    if isinstance(value, tuple | list):
        items = {options.joined(path, number): item for number, item in enumerate(value)}
    elif isinstance(value, Mapping | ConfigDict) and (option.each or option.items):
        items = {options.joined(path, name): item for name, item in value.items()}
    else:
        items = {}
        _check_value(value, option, path)
    kinds = option.items or ((str,) if option.choices else ())
    for place, item in items.items():
        if option.each:
            _check_section(item, option.each, place)
            continue
        if kinds and not options.of_kind(item, kinds):
            words = options.kinds_in_words(kinds)
            raise InputError(f"config.{place}={_plain(item)!r}: must be {words}")
        _check_value(item, option, place)
    if option.check and value is not None and _plain(value) != _plain(option.value()):
        _delegate(option.check, path, _plain(value))


def _check_value(value: Any, option: Option, path: str) -> None:
    """Check the choices of a text, the range of a number."""
    if isinstance(value, str) and not option.fits(value):
        names = option.names()
        choices = ", ".join(map(_quoted, names))
        raise InputError(f"config.{path}={value!r}: must be one of {choices}{near(value, names)}")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (abs(value) >= 2**63 or not option.inside(value)):
        words = option.range() or "a finite number"
        words += ", of 64 bits" if abs(value) >= 2**63 else ""
        raise InputError(f"config.{path}={value}: must be {words}")


def _delegate(place: str, path: str, *arguments: Any) -> None:
    """Call the function that checks an option; prefix its errors with the whole path.

    Raises:
        InputError: an invalid value.
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
    """Check one of data.sources by the options of its kind."""
    kind = dict(source).get("source", default_kind)
    _check_option(kind, configs.SOURCE_KIND, f"{where}.source")
    statement = {**configs.SOURCE, **configs.OF_SOURCE.get(kind, {})}
    try:
        _check_section(source, statement, where)
    except InputError as error:
        raise InputError(
            f"{error} (source {kind})" if "unknown option" in str(error) else error
        ) from None


def _check_model(config: ConfigDict, where: str) -> None:
    """Check constraints between the options of a model."""
    model = _at(config, where)
    _check_frozen(model, where)
    if not model.phases:
        raise InputError(f"config.{where}.phases=(): needs at least one phase(...)")
    ends = [f"phase:{number}" for number in range(len(model.phases))]
    ends += [f"epoch:{epoch}" for epoch in model.keep_epochs]
    if ":" in model.checkpoint and model.checkpoint not in ends:
        raise InputError(
            f"config.{where}.checkpoint={model.checkpoint!r}: must be one of {', '.join(ends)}"
        )
    left_out = model.left_out
    if left_out and not (len(left_out) == 2 and 0 <= left_out[0] < left_out[1]):
        raise InputError(f"config.{where}.left_out={left_out}: must be (k, n) with 0 <= k < n")
    for name in model.classes:
        if name not in config.classes:
            hint = near(name, config.classes)
            raise InputError(f"config.{where}.classes: unknown class {name!r}{hint}")
    if not model.channels or len(set(model.channels)) != len(model.channels):
        raise InputError(
            f"config.{where}.channels={model.channels}: must be distinct, at least one"
        )
    if model.batch_size % model.accumulate:
        raise InputError(
            f"config.{where}.accumulate={model.accumulate}: does not divide the batch of "
            f"{model.batch_size}"
        )
    head_options = options.names_at(f"hpa_jax.models.heads:HEADS.{model.head}")
    for name in model.head_options:
        if name not in head_options:
            path = options.joined(f"{where}.head_options", name)
            raise InputError(
                f"config.{path}: unknown option of head {model.head}{near(name, head_options)}"
            )
    if model.image_size < SMALL or model.large_stem or model.as_run:
        form = (model.backbone, model.image_size, model.large_stem, model.as_run)
        _delegate("hpa_jax.models.registry:check", f"{where}.backbone={model.backbone!r}", *form)
    if (model.normalize, *model.channels) != ("hpa", *options.names_at(configs.CHANNELS)):
        _delegate("hpa_jax.models.normalization:normalizer", where, model.normalize, model.channels)
    for number, options_of_phase in enumerate(model.phases):
        phase = configs.phase(**dict(options_of_phase))
        path = f"{where}.phases[{number}]"
        if phase.epochs % phase.cycles:
            raise InputError(
                f"config.{path}.cycles={phase.cycles}: must divide its {phase.epochs} epochs"
            )
        if phase.schedule not in options.names_at("hpa_jax.training.schedules:NAMES"):
            _delegate("hpa_jax.training.schedules:table", f"{path}.schedule", phase.schedule)


def _check_frozen(model: ConfigDict, where: str) -> None:
    """Check the fixed options of a head on stored embeddings."""
    if not model.frozen.head:
        return
    if configs.started_from(model):
        raise InputError(
            f"config.{where}.init_from={model.init_from!r}: a frozen network is run before any "
            "training; train that one in another run and give its folder here"
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
    if model.frozen.head == "gated_attention" and not isinstance(model.views, str):
        for key in ("aggregate", "weights"):
            if key in model.views:
                raise InputError(
                    f"config.{where}.views.{key}: frozen.head='gated_attention' weighs the views"
                )


def _at(config: ConfigDict, where: str) -> Any:
    node: Any = config
    for part in where.split("."):
        node = node[part]
    return node


def _check_decision(config: ConfigDict) -> None:
    """Check constraints between options of blends, thresholds, stack and submission."""
    of_stack: Any = configs.OPTIONS["stack"]
    for name, class_settings in config.stack.of_class.items():
        path = options.joined("stack.of_class", name)
        if not isinstance(class_settings, Mapping | ConfigDict):
            raise InputError(f"config.{path}={class_settings!r}: must be a mapping of settings")
        for key, value in class_settings.items():
            option = of_stack.get(key)
            if isinstance(option, Option):  # the stack's protocol checks the others
                _check_option(value, option, options.joined(path, key))
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
        raise InputError(
            f"config.submission.method={method!r}: must be one of {', '.join(methods)}{hint}"
        )
    if method == "ensemble" and not configs.has_ensemble(config):
        raise InputError('config.submission.method="ensemble": config.ensemble defines none')
    for name in config.duplicates.trained_on:
        path = options.joined("duplicates.trained_on", name)
        if name not in config.models:
            raise InputError(f"config.{path}: unknown model{near(name, config.models)}")
        if not config.models[name].init_from or configs.started_from(config.models[name]):
            raise InputError(f"config.{path}: {name} starts from no weights of its own (init_from)")
    for name in config.embeddings.pca:
        _check_stored(config, name, f"embeddings.pca.{name}")
    if name := config.retrieval.embeddings_of:
        _check_stored(config, name, f"retrieval.embeddings_of={name!r}")
    weights, thresholds = config.ensemble.weights, config.thresholds
    for name in weights:
        if name not in config.models:
            path = options.joined("ensemble.weights", name)
            raise InputError(f"config.{path}: unknown model{near(name, config.models)}")
    if weights and config.ensemble.method in ("likelihood", "greedy"):
        raise InputError(f"config.ensemble.weights: method {config.ensemble.method} fits them")
    for key, counts in (("proportions", (0,)), ("scale", (1,))):
        if len(thresholds[key]) not in (*counts, len(config.classes)):
            raise InputError(
                f"config.thresholds.{key}: {len(thresholds[key])} numbers, "
                f"{len(config.classes)} classes"
            )
    matching = thresholds.method.startswith("match_proportions")
    if thresholds.match_on == "test" and (not matching or thresholds.shrink):
        raise InputError(
            "config.thresholds.match_on=test: only for match_proportions without shrink"
        )
    trained = config.split.trained_folds
    if not set(trained) <= set(range(config.split.folds)):
        raise InputError(
            f"config.split.trained_folds={trained}: must be in 0 to {config.split.folds - 1}"
        )


def _check_stored(config: ConfigDict, name: str, where: str) -> None:
    """Refuse an unknown model and one whose embeddings are not stored."""
    if name not in config.models:
        raise InputError(f"config.{where}: unknown model {name!r}{near(name, config.models)}")
    if not config.models[name].frozen.head:
        raise InputError(
            f"config.{where}: {name} has no frozen.head: the embeddings of its folds would not be "
            "comparable"
        )


def _quoted(name: str) -> str:
    return name or '""'


def _plain(value: Any) -> Any:
    """Convert ConfigDicts to dicts, for messages and checks."""
    if isinstance(value, Mapping | ConfigDict):
        return {name: _plain(item) for name, item in value.items()}
    return type(value)(map(_plain, value)) if isinstance(value, tuple | list) else value
