"""The kernels' threads: all cores for one kernel, or a core for each piece of work; the same bits either way."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from streamrecon_kernels import Gate, Spokes, each, parallel, threads

from streamrecon.config import ReconConfig
from streamrecon.recon import device, spreading
from streamrecon.recon.accumulate import Shape, snapshot
from streamrecon.recon.direct import DirectAccumulator
from streamrecon.recon.fourier import FourierAccumulator
from streamrecon.scan import Geometry

METHODS = {"direct": DirectAccumulator, "fourier": FourierAccumulator}
several = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="this process has one thread")


class RefusedError(Exception):
    """Of a task of these tests."""


def run(code: str, *, seconds: float = 200, **environment: str) -> str:
    """What a program of its own prints; it may neither fail nor hang."""
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env=inherited | environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# `each`.


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_each_item_once(count: int) -> None:
    done: list[int] = []
    each(done.append, iter(range(count)))
    assert sorted(done) == list(range(count))


@several
def test_on_several_threads_at_once() -> None:
    together = threading.Barrier(threads(), timeout=10)
    names = set()

    def task(item: int) -> None:
        names.add(threading.current_thread())
        together.wait()  # nobody passes alone

    each(task, range(3 * threads()))
    assert len(names) == threads()
    assert threading.current_thread() in names, "it would be idle"


@several
def test_kernels_within_have_one_thread() -> None:
    within: list[int] = []
    each(lambda item: within.append(threads()), range(8))
    assert within == [1] * 8
    assert threads() > 1, "outside nothing has changed"


def test_one_thread_keeps_the_order() -> None:
    before, done = threads(), list[tuple[int, threading.Thread]]()
    numba.set_num_threads(1)
    try:
        assert threads() == 1
        each(lambda item: done.append((item, threading.current_thread())), range(9))
    finally:
        numba.set_num_threads(before)
    assert done == [(item, threading.current_thread()) for item in range(9)]


@pytest.mark.parametrize("bad", [0, 3, 19])
@pytest.mark.parametrize("error", [RefusedError, KeyboardInterrupt])
def test_an_error_reaches_the_caller_and_the_threads_go_on(bad: int, error: type[BaseException]) -> None:
    running, done = [], []

    def task(item: int) -> None:
        running.append(item)
        if item == bad:
            raise error(str(item))
        done.append(item)

    for _ in range(3):
        running.clear(), done.clear()
        with pytest.raises(error, match=f"^{bad}$"):
            each(task, range(20))
        assert bad not in done
        assert sorted([*done, bad]) == sorted(running), "what had begun has ended"
        assert len(done) == len(set(done))
        each(done.append, range(100, 130))
        assert sorted(done)[-30:] == list(range(100, 130))


@several
def test_nothing_runs_any_more_when_an_error_arrives() -> None:
    release, begun, ended = threading.Event(), threading.Event(), threading.Event()

    def task(item: int) -> None:
        if item == 0:
            assert begun.wait(10)
            release.set()
            raise RefusedError
        if item == 1:
            begun.set()
            assert release.wait(10)
            sum(range(10**6))
            ended.set()

    with pytest.raises(RefusedError):
        each(task, range(10))
    assert ended.is_set()


@several
def test_within_each_other() -> None:
    done: list[tuple[int, int]] = []

    def outer(item: int) -> None:
        each(lambda inner: done.append((item, inner)), range(5))
        with pytest.raises(RefusedError):
            each(refuse, range(3))

    each(outer, range(2 * threads() + 1))
    assert sorted(done) == [(item, inner) for item in range(2 * threads() + 1) for inner in range(5)]


def refuse(item: int) -> None:
    raise RefusedError


def test_python_threads_may_use_kernels_and_each_at_once() -> None:
    """numba's simplest threading layer ends the process when two threads launch a kernel together."""
    out = run(
        """
        import threading
        import numpy as np
        from streamrecon_kernels import each, pack_rows

        rows = np.random.default_rng(0).normal(size=(4, 7, 300)).astype(np.float32)
        weight = np.linspace(1, 2, 300, dtype=np.float32)

        def pack():
            out = np.empty((4, 512, 4), np.complex64)
            pack_rows(rows, weight, out)
            return out

        expected, wrong, ended = pack(), [], []

        def check(item):
            if not np.array_equal(pack(), expected):
                wrong.append(item)

        def many():
            for turn in range(100):
                check(turn)
                each(check, range(5))
            ended.append(1)

        several = [threading.Thread(target=many) for _ in range(3)]
        [t.start() for t in several]
        [t.join() for t in several]
        print(len(ended), wrong)
        """,
        NUMBA_NUM_THREADS="3",
        NUMBA_THREADING_LAYER="workqueue",
    )
    assert out.split() == ["3", "[]"]


# The same bits.


def reconstruct(method: str, rows: int, side: int | None) -> list[np.ndarray]:
    """Snapshots of an accumulator that has seen everything it can."""
    rng = np.random.default_rng(rows)
    options = ReconConfig(side=side)
    accumulator = METHODS[method](Shape.of(Geometry(rows, 14), options, 6.7), options)
    for _ in range(2):
        theta, weight = rng.uniform(0, 3.2, 9), rng.uniform(0.1, 0.3, 9)
        accumulator.add(rng.normal(size=(9, rows, 14)).astype(np.float32), theta, weight)
    accumulator.add_constant(rng.normal(size=(rows, 14)).astype(np.float32), theta, -weight)
    return [snapshot(accumulator, binning=binning) for binning in (1, 2, 4)]


@several
@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize(("rows", "blocks"), [(10, 1), (64, 2), (70, 3), (150, 5)])
@pytest.mark.parametrize("side", [None, 5])
def test_the_same_bits_on_any_number_of_threads(
    monkeypatch: pytest.MonkeyPatch, method: str, rows: int, blocks: int, side: int | None
) -> None:
    assert Shape.of(Geometry(rows, 14), ReconConfig(), 6.7).blocks == blocks
    here = type(device.CPU)
    calls: list[int] = []

    def counted(task: Any, items: Any) -> None:
        calls.append(len(items))
        each(task, items)

    def at_once(self: Any, task: Any, items: Any) -> None:
        counted(self._alone(task), items)

    def in_order(self: Any, task: Any, items: Any) -> None:
        with self.transforms():
            for item in items:
                task(item)

    got = {"as it likes": reconstruct(method, rows, side)}
    before = threads()
    numba.set_num_threads(1)
    try:
        got["one thread"] = reconstruct(method, rows, side)
    finally:
        numba.set_num_threads(before)
    monkeypatch.setattr(here, "each", at_once)
    got["a core each"] = reconstruct(method, rows, side)
    assert max(calls) >= blocks
    monkeypatch.setattr(here, "each", in_order)
    got["all cores for each"] = reconstruct(method, rows, side)
    for name, volumes in got.items():
        for volume, expected in zip(volumes, got["one thread"], strict=True):
            assert np.isfinite(volume).all()
            np.testing.assert_array_equal(volume, expected, err_msg=name)


# How libgomp waits.


@pytest.mark.parametrize(("said", "expected"), [({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active")])
def test_who_says_how_to_wait_is_left_alone(said: dict[str, str], expected: str) -> None:
    out = run("import streamrecon_kernels, os; print(os.environ['OMP_WAIT_POLICY'])", **said)
    assert out.strip() == expected


# The cache.


OWN = """
import numba
from numba import prange

from streamrecon_kernels.parallel import kernel


@kernel()
def who(values, out):
    for i in prange(out.size):
        out[i] = numba.get_thread_id()
        values[i] = values[i] * 3 + 1
"""

USE = """
import numpy as np
from streamrecon_kernels import each, parallel
from own import who
print(who.compiled)

def use(item=0):
    values, out = np.arange(4096.0), np.full(4096, -1)
    who(values, out)
    got.append((len(set(out.tolist())), float(values.sum())))

got = []
use() if {first!r} == "outside" else each(use, range(2))
print(who.compiled)
each(use, range(2))
use()
print(sorted(set(got)))
print(who.compiled)
for one in who._together, who._alone:
    print(sum(one.stats.cache_hits.values()), sum(one.stats.cache_misses.values()))
"""


@pytest.mark.parametrize("first", ["outside", "within"])
def test_the_two_variants_are_two_in_the_cache(tmp_path: Path, first: str) -> None:
    (tmp_path / "own.py").write_text(OWN)
    environment = {
        "NUMBA_CACHE_DIR": str(tmp_path / "cache"),
        "NUMBA_NUM_THREADS": "2",
        "NUMBA_THREADING_LAYER": "workqueue",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    wanted = f"[(1, {3.0 * 4095 * 2048 + 4096}), (2, {3.0 * 4095 * 2048 + 4096})]"
    compiled = run(USE.format(first=first), **environment).splitlines()
    assert compiled == ["False", "False", wanted, "True", "0 1", "0 1"], "one of the two is not enough"
    assert len(list((tmp_path / "cache").rglob("*.nbi"))) == 2
    loaded = run(USE.format(first="outside"), **environment).splitlines()
    assert loaded == ["True", "True", wanted, "True", "1 0", "1 0"]
    (tmp_path / "own.py").write_text(OWN.replace("* 3", "* 3.0"))
    assert run("from own import who; print(who.compiled)", **environment).strip() == "False", "of an older text"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_is_left_to_be_compiled_once_a_scan_begins(tmp_path: Path) -> None:
    """On one core or all, in one band or two, for rows that fill vectors and others, whole and binned."""
    code = """
        import itertools, os
        from pathlib import Path
        import numpy as np
        from streamrecon_kernels import all_compiled, compiling
        from streamrecon.config import ReconConfig
        from streamrecon.engine.warmup import compile_kernels
        from streamrecon.recon import device
        from streamrecon.recon.accumulate import Shape, snapshot
        from streamrecon.recon.direct import DirectAccumulator
        from streamrecon.recon.fourier import FourierAccumulator
        from streamrecon.scan import Geometry

        class InOrder(device.Cpu):
            def each(self, task, items):
                with self.transforms():
                    for item in items:
                        task(item)

        def held():
            return {path.name for path in Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nbc")}

        before = all(kernel.compiled for kernel in compiling.KERNELS)
        compile_kernels(device.CPU)
        print(before, all_compiled(), len(held()) > 15)
        first = held()
        shapes = (2, 24), (7, 30), (40, 33), (70, 40), (3, 760)
        for (rows, columns), where, circle in itertools.product(shapes, (device.CPU, InOrder()), (False, True)):
            options = ReconConfig(circle=circle)
            for method in DirectAccumulator, FourierAccumulator:
                for center, offset_axis in (columns / 2, False), (columns / 3, True):
                    shape = Shape.of(Geometry(rows, columns), options, center, offset_axis)
                    accumulator = method(shape, options, where)
                    theta = np.arange(5.0)
                    accumulator.add(np.ones((5, rows, columns), np.float32), theta, theta)
                    accumulator.add_constant(np.ones((rows, columns), np.float32), theta, theta)
                    for binning in (1, 2, 4, 16):
                        snapshot(accumulator, binning=binning)
        print(sorted(held() - first))
        """
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"}
    assert run(code, seconds=280, **environment).splitlines() == ["False True True", "[]"]
    told = "from streamrecon_kernels import all_compiled; print(all_compiled())"
    assert run(told, **environment).strip() == "True"
    next(tmp_path.rglob("*.bin_voxels_alone-*.nbi")).unlink()
    assert run(told, **environment).strip() == "False", "one variant of one kernel is missing"


def test_both_variants_are_of_one_text() -> None:
    def function(x):  # type: ignore[no-untyped-def]
        for i in numba.prange(x.size):
            x[i] += 1

    both = parallel.kernel(cache=False)(function)
    assert not both.compiled
    assert both.py_func is function
    assert both._together.py_func.__code__ is both._alone.py_func.__code__
    assert both._together.targetoptions["parallel"]
    assert not both._alone.targetoptions.get("parallel", False)


def test_an_error_within_a_kernel_leaves_the_lock_free() -> None:
    def function(x):  # type: ignore[no-untyped-def]
        return x.nothing_like_this

    bad = parallel.kernel(cache=False)(function)
    for _ in range(2):
        with pytest.raises(numba.TypingError):
            bad(np.zeros(3))
        assert not parallel.LOCK.locked()


@several
def test_pieces_wait_at_a_gate_until_those_before_are_through() -> None:
    for _ in range(50):
        through: list[int] = []
        gate = Gate(4)

        def first(item: int, gate: Gate = gate, through: list[int] = through) -> None:
            with gate:
                time.sleep(0.001 * (item % 2))
                through.append(item)

        def second(item: int, gate: Gate = gate, through: list[int] = through) -> None:
            gate.wait()
            assert sorted(through[:4]) == [0, 1, 2, 3]
            through.append(item)

        each(lambda item: first(item) if item < 4 else second(item), range(9))
        assert sorted(through) == list(range(9))


@several
def test_nobody_waits_for_ever_where_a_piece_fails() -> None:
    passed: list[int] = []

    def task(item: int) -> None:
        if item == 0:
            with gate:
                time.sleep(0.05)
                raise RefusedError("0")
        gate.wait()
        passed.append(item)

    for _ in range(5):
        gate = Gate(1)
        with pytest.raises(RefusedError):
            each(task, range(8))
    assert not passed, "what had to wait was not done"


@several
@pytest.mark.parametrize("failing", ["fill", "deal", "pack_rows", "grid_spokes"])
def test_an_accumulator_whose_piece_fails_says_so_and_goes_on(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape.of(Geometry(70, 24), ReconConfig(), 11.5)
    accumulator = FourierAccumulator(shape, ReconConfig())
    projections, theta = np.ones((9, 70, 24), np.float32), np.arange(9) * 0.3

    def refuse(*_: Any) -> None:
        time.sleep(0.02)
        raise RefusedError(failing)

    with monkeypatch.context() as patch:
        where = Spokes if failing in ("fill", "deal") else spreading
        patch.setattr(where, failing, refuse)
        with pytest.raises(RefusedError, match=failing):
            accumulator.add(projections, theta, theta)
    accumulator.reset()
    accumulator.add(projections, theta, theta)
    again = FourierAccumulator(shape, ReconConfig())
    again.add(projections, theta, theta)
    np.testing.assert_array_equal(snapshot(accumulator), snapshot(again))


@several
@pytest.mark.parametrize("here", [False, True])
def test_pieces_that_have_not_begun_are_left_when_one_fails(here: bool) -> None:
    """Be it one of the caller's or another thread's."""
    begun: list[int] = []
    caller, helped = threading.current_thread(), threading.Event()

    def task(item: int) -> None:
        begun.append(item)
        if threading.current_thread() is not caller:
            helped.set()
        elif not here:
            helped.wait(60)
        time.sleep(0.002)
        if (threading.current_thread() is caller) is here:
            raise RefusedError(str(item))

    with pytest.raises(RefusedError):
        each(task, range(500))
    assert len(begun) < 250


# Interrupts.


@several
@pytest.mark.parametrize("error", [RefusedError, KeyboardInterrupt])
def test_nobody_waits_for_ever_where_a_piece_ends_before_its_gate(error: type[BaseException]) -> None:
    """As where an interrupt comes when the piece has been taken and not yet begun."""
    gate, waiting, raised = Gate(1), threading.Event(), list[BaseException]()

    def task(item: int) -> None:
        if item == 0:
            assert waiting.wait(10)
            raise error
        waiting.set()
        gate.wait()

    def call() -> None:
        try:
            each(task, range(2))
        except BaseException as caught:
            raised.append(caught)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(10)
    assert [type(caught) for caught in raised] == [error]


def test_a_gate_that_nobody_can_open_any_more_is_an_error() -> None:
    with pytest.raises(parallel.AbandonedError):
        Gate(1).wait()


@several
def test_an_interrupt_is_told_rather_than_an_error() -> None:
    refused, caller = threading.Event(), threading.current_thread()

    def task(item: int) -> None:
        if threading.current_thread() is not caller:
            refused.set()
            raise RefusedError
        assert refused.wait(10)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        each(task, range(2))


@several
def test_who_is_interrupted_while_asking_for_help_waits_for_those_who_came(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, comes, ended = threading.Event(), threading.Event(), list[int]()
    ask = parallel._ask

    def interrupted(*arguments: Any) -> None:
        ask(*arguments)
        assert begun.wait(60)
        comes.set()
        raise KeyboardInterrupt

    def task(item: int) -> None:
        begun.set()
        assert comes.wait(60)
        time.sleep(0.2)
        ended.append(item)

    with monkeypatch.context() as patch:
        patch.setattr(parallel, "_ask", interrupted)
        with pytest.raises(KeyboardInterrupt):
            each(task, range(50))
        assert 1 <= len(ended) < threads(), "what had begun has ended, the rest was left"


def test_who_is_interrupted_while_waiting_waits_on() -> None:
    out = run(
        """
        import signal, threading, time
        from streamrecon_kernels import each

        caller = threading.current_thread()
        begun, release, ended = threading.Event(), threading.Event(), []

        def task(item):
            if threading.current_thread() is caller:
                assert begun.wait(10)
            else:
                begun.set()
                assert release.wait(10)
                ended.append(item)

        def interrupt():
            begun.wait(10)
            for _ in range(5):
                time.sleep(0.1)
                signal.pthread_kill(caller.ident, signal.SIGINT)
            time.sleep(0.1)
            release.set()

        for _ in range(3):
            begun.clear(), release.clear(), ended.clear()
            thread = threading.Thread(target=interrupt)
            thread.start()
            try:
                each(task, range(2))
                print("returned")
            except KeyboardInterrupt:
                print("interrupted", len(ended))
            thread.join()

        together = threading.Barrier(2, timeout=10)
        each(lambda item: together.wait(), range(2))
        print("several threads, as before")
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert out.splitlines() == ["interrupted 1"] * 3 + ["several threads, as before"]


# Forks.


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_forked_process_reconstructs(used: bool, method: str) -> None:
    """On one thread where there are some already, which cannot be forked."""
    out = run(
        f"""
        import os, signal
        import numpy as np
        from streamrecon.config import ReconConfig
        from streamrecon.engine.slab import ACCUMULATORS
        from streamrecon.recon.accumulate import Shape, snapshot
        from streamrecon.recon.device import CPU
        from streamrecon.scan import Geometry
        from streamrecon_kernels import threads

        def reconstruct(rows):
            options = ReconConfig()
            accumulator = ACCUMULATORS["{method}"](Shape.of(Geometry(rows, 14), options, 6.7), options, CPU)
            accumulator.add(np.ones((9, rows, 14), np.float32), np.arange(9) * 0.3, np.ones(9))
            return snapshot(accumulator)

        # Of one block, whose kernels share the cores, and of two, which have one each.
        before = [reconstruct(rows) for rows in (10, 64)] if {used} else None
        child = os.fork()
        if not child:
            signal.alarm(50)
            after = [reconstruct(rows) for rows in (10, 64)]
            same = before is None or all(np.array_equal(a, b) for a, b in zip(after, before))
            print(threads(), same, flush=True)
            os._exit(0)
        print(os.waitpid(child, 0)[1])
        """,
        NUMBA_NUM_THREADS="2",
    )
    assert out.splitlines() == [f"{1 if used else 2} True", "0"]


def test_threads_can_be_limited() -> None:
    """As the ranks on one machine share its cores: in kernels, and beside them."""
    if parallel.threads() == 1:
        pytest.skip("there is one core")
    seen: set[int] = set()
    try:
        parallel.limit_threads(1)
        assert parallel.threads() == 1
        parallel.each(lambda item: seen.add(threading.get_ident()), range(8))
        assert seen == {threading.get_ident()}
        parallel.limit_threads(0)
        assert parallel.threads() == 1
    finally:
        parallel.limit_threads(None)
    assert parallel.threads() > 1
