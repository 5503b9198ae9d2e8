"""The verbs of the command line, one function each, in verbs_make.py and verbs_use.py; the table VERBS lists them, in the
order of a project.

A verb's parameters are its arguments: positional ones before the `*`, then flags (`from_scratch` is `--from-scratch`), whose
defaults are those of the signature. Each parameter is annotated with its type, its help and, if its choices are the keys of a
table, that table as "module:NAME". `overrides` receives words such as `--optim.lr 1e-4`. Imports stand in the functions, so
that help is quick. What several verbs have in common stands in arguments.py.
"""

from collections.abc import Callable

from speechssl import verbs_make as make
from speechssl import verbs_use as use

VERBS: dict[str, Callable[..., None]] = {
    verb.__name__.replace("_", "-"): verb
    for verb in (
        make.prepare,
        make.split,
        use.cluster,
        make.pretrain,
        make.finetune,
        use.evaluate,
        use.compare,
        use.transcribe,
        use.align,
        use.classify,
        make.build_lm,
        use.tune_lm,
        use.embed,
        use.probe,
        use.benchmark,
        use.abx,
        use.layers,
        use.convert,
        use.info,
        use.export,
    )
}
