"""Figure: planned rate and momentum of every model, stage by stage (`stages.learning_rates`)."""

from collections.abc import Mapping

import numpy as np

from hpa_jax.report.canvas import axes, colours, svg

COLUMNS = 4
Plan = Mapping[str, np.ndarray]


def planned(plans: Mapping[str, Plan]) -> str:
    """A column a model: rates of head (solid) and stem (dotted), beta 1 below; lines part stages.

    plans: name -> epoch, lr, stem (NaN where it is frozen), beta1, and the borders of its stages.
    """
    columns = min(len(plans), COLUMNS)
    rows = -(-len(plans) // columns)
    figure, panels = axes(columns, 2 * rows, max(3.2 * columns, 4.5), 4 * rows)
    for panel in panels:
        panel.axis("off")
    for number, ((name, plan), colour) in enumerate(zip(plans.items(), colours(len(plans)))):
        place = 2 * columns * (number // columns) + number % columns
        rates, momentum = panels[place], panels[place + columns]
        rates.semilogy(plan["epoch"], plan["lr"], color=colour, label="head")
        rates.semilogy(plan["epoch"], plan["stem"], ":", color=colour, label="stem")
        momentum.plot(plan["epoch"], plan["beta1"], color=colour)
        for panel in (rates, momentum):
            panel.axis("on")
            panel.tick_params(which="both", labelsize=7)
            for border in plan["borders"]:
                panel.axvline(border, color="#999999", linewidth=0.6)
        rates.set_title(name, fontsize=9)
        momentum.set_xlabel("epoch", fontsize=8)
        if place % columns == 0:
            rates.set_ylabel("learning rate", fontsize=8)
            momentum.set_ylabel("beta 1", fontsize=8)
    panels[0].legend(fontsize=7)
    return svg(figure)
