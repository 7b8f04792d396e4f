"""MIPP and its peers behind one interface: `plan(task, budget) -> PruningPlan`.

One file and one citation per method; a card in docs/methods/ says what differs from the source.
"""

from collections.abc import Callable

from mipp.methods.activation import FLAP, Wanda
from mipp.methods.base import Method, Needs, OneShot, needs_of
from mipp.methods.controls import Reinitialised, Scratch
from mipp.methods.geometric import FPGM
from mipp.methods.grasp import GraSP, IterGraSP
from mipp.methods.imp import IMP
from mipp.methods.interpolative import Interpolative
from mipp.methods.lamp import LAMP
from mipp.methods.magnitude import L1, L2
from mipp.methods.maps import CHIP, HRank
from mipp.methods.mipp.mipp import MIPP
from mipp.methods.oto import OTO
from mipp.methods.prospr import ProsPr
from mipp.methods.random import Random
from mipp.methods.reconstruction import OSSCAR
from mipp.methods.slimming import BatchNormScale
from mipp.methods.snip import SNIP, IterSNIP
from mipp.methods.sosp import SOSPH, SOSPI
from mipp.methods.synflow import SynFlow
from mipp.methods.taylor import Taylor
from mipp.methods.thinet import ThiNet
from mipp.plan.task import Task

__all__ = [
    "CHIP",
    "FLAP",
    "FPGM",
    "IMP",
    "L1",
    "L2",
    "LAMP",
    "MIPP",
    "OSSCAR",
    "OTO",
    "SNIP",
    "SOSPH",
    "SOSPI",
    "BatchNormScale",
    "GraSP",
    "HRank",
    "Interpolative",
    "IterGraSP",
    "IterSNIP",
    "Method",
    "Needs",
    "OneShot",
    "ProsPr",
    "Random",
    "Reinitialised",
    "Scratch",
    "SynFlow",
    "Task",
    "Taylor",
    "ThiNet",
    "Wanda",
    "all",
    "needs_of",
]


def all() -> dict[str, Callable[[], Method]]:
    """Every method by name; each constructs without arguments."""
    return {
        "mipp": MIPP,
        "random": Random,
        "l1": L1,
        "l2": L2,
        "taylor": Taylor,
        "thinet": ThiNet,
        "sosph": SOSPH,
        "sospi": SOSPI,
        "grasp": GraSP,
        "synflow": SynFlow,
        "snip": SNIP,
        "itersnip": IterSNIP,
        "itergrasp": IterGraSP,
        "prospr": ProsPr,
        "imp": IMP,
        "oto": OTO,
        "osscar": OSSCAR,
        "interpolative": Interpolative,
        "wanda": Wanda,
        "flap": FLAP,
        "hrank": HRank,
        "chip": CHIP,
        "fpgm": FPGM,
        "lamp": LAMP,
        "bnscale": BatchNormScale,
        "reinit": Reinitialised,
        "scratch": Scratch,
    }
