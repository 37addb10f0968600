"""What the scheduler of workers decides, shown with workers that live and fail on command."""

from __future__ import annotations

import gc
import pickle
import weakref

import pytest
import torch

from grpo_core import Decisions, GroupSpec, Trajectory
from grpo_core.errors import ConfigError, ExecutorError
from grpo_core.executors import FaultTolerance
from grpo_core.executors.scheduling import Answer, FleetExecutor, WorkerBody, unpacked

ROW = Decisions(states=torch.zeros(1, 1), actions=torch.zeros(1, 1), log_prob=torch.zeros(1, 1))


class Reporter:
    """A rollout whose reward is the weight that it was given."""

    def __init__(self):
        self.weight = -1.0

    def load_weights(self, weights):
        self.weight = float(weights["w"])

    def __call__(self, jobs):
        return [Trajectory(job=job, decisions=ROW, reward=self.weight) for job in jobs]


class Packed(dict):
    """Weights on their way."""


class Village:
    """Workers that live in this process; `fates` say what becomes of the next calls and starts.

    A fate is the worker's answer instead of the true one, or None for no answer at all.
    """

    def __init__(self, places=1, *, factory=Reporter):
        self.places = places
        self.factory = factory
        self.bodies = {}
        self.answers = []
        self.call_fates, self.start_fates = [], []
        self.log, self.packed = [], []

    def start(self, place):
        self.log.append(("start", place))
        self.bodies[place] = WorkerBody(self.factory, dict)
        self._answer(place, self.start_fates, self.bodies[place].start)

    def stop(self, place):
        self.bodies.pop(place, None)
        self.answers = [(other, answer) for other, answer in self.answers if other != place]

    def pack(self, weights):
        packed = Packed({name: tensor.clone() for name, tensor in weights.items()})
        self.packed.append(weakref.ref(packed))
        return packed

    def send(self, place, call):
        self.log.append(("send", place, [job.member for job in call.jobs]))
        self._answer(place, self.call_fates, lambda: self.bodies[place].answer(call))

    def wait(self, timeout):
        assert self.answers or timeout is not None, "would wait for ever"
        answers, self.answers = self.answers, []
        return answers

    def _answer(self, place, fates, truth):
        fate = fates.pop(0) if fates else "truth"
        if fate is not None:
            self.answers.append((place, truth() if fate == "truth" else fate))


class VillageExecutor(FleetExecutor):
    """Schedules the workers of a village."""

    def __init__(self, fleet, **options):
        self.fleet = fleet
        super().__init__(workers=fleet.places, **options)

    def _start_worker(self, place):
        self.fleet.start(place)

    def _stop_worker(self, place):
        self.fleet.stop(place)

    def _pack(self, weights):
        return self.fleet.pack(weights)

    def _send(self, place, call):
        self.fleet.send(place, call)

    def _wait(self, timeout):
        return self.fleet.wait(timeout)

    def _release(self):
        self.fleet.bodies.clear()


def executor_of(fleet, *, jobs_per_call=1, **tolerance):
    tolerance = FaultTolerance(**{"max_votes": 1} | tolerance)
    return VillageExecutor(fleet, jobs_per_call=jobs_per_call, tolerance=tolerance)


def jobs(group=0, size=4, seed=None):
    return GroupSpec(group=group, task="walk", seed=group if seed is None else seed, size=size).jobs()


def everything(executor, count):
    found = []
    while len(found) < count:
        polled = executor.poll()
        assert polled, "nothing is outstanding any more"
        found += polled
    return found


def test_members_go_to_whichever_worker_is_free():
    fleet = Village(2)
    executor = executor_of(fleet)
    executor.submit(jobs())
    found = everything(executor, 4)
    assert {place for act, place, *_ in fleet.log if act == "send"} == {0, 1}
    assert sorted(trajectory.job.member for trajectory in found) == [0, 1, 2, 3]
    assert executor.poll() == []


def test_a_group_stays_together_where_its_calls_are_that_large():
    fleet = Village(2)
    executor = executor_of(fleet, jobs_per_call=None)
    executor.submit(jobs())
    assert [trajectory.job.member for trajectory in executor.poll()] == [0, 1, 2, 3]


def test_jobs_keep_the_weights_under_which_they_were_submitted_also_when_made_again():
    fleet = Village()
    executor = executor_of(fleet)
    weight = torch.tensor(1.0)
    executor.set_weights(10, {"w": weight})
    fleet.call_fates = [Answer("deaths", "killed")]
    executor.submit(jobs(0, size=2))
    weight.fill_(2.0)
    executor.set_weights(10, {"w": weight})
    executor.submit(jobs(1, size=1))
    found = {(t.job.spec.group, t.job.member): (t.reward, t.version) for t in everything(executor, 3)}
    assert found == {(0, 0): (1.0, 10), (0, 1): (1.0, 10), (1, 0): (2.0, 10)}
    executor.set_weights(11, {"w": weight})
    gc.collect()
    assert [reference() is not None for reference in fleet.packed] == [False, False, True], (
        "weights that no job needs are still kept"
    )


def test_a_call_without_answer_is_made_again_by_a_fresh_worker():
    fleet = Village()
    executor = executor_of(fleet, deadline=0.01)
    fleet.call_fates = [None]
    executor.submit(jobs(size=1))
    (found,) = executor.poll()
    assert (found.status, found.job.attempt) == ("ok", 1)
    assert [act for act, *_ in fleet.log] == ["start", "send", "start", "send"]
    assert (executor.events["timeouts"], executor.events["restarts"]) == (1, 1)


def test_a_call_that_always_hangs_comes_back_as_timed_out():
    fleet = Village()
    executor = executor_of(fleet, deadline=0.01, max_attempts=2)
    fleet.call_fates = [None, None]
    executor.submit(jobs(size=1))
    (found,) = executor.poll()
    assert (found.status, found.job.attempt, found.reward) == ("timeout", 1, None)
    assert "0.01 s" in found.error
    assert executor.quarantined == {("walk", 0)}


def test_poll_gives_up_waiting_when_its_time_is_over_and_the_call_goes_on():
    fleet = Village()
    executor = executor_of(fleet)
    fleet.call_fates = [None]
    executor.submit(jobs(size=1))
    assert executor.poll(0.01) == []
    body, call = fleet.bodies[0], executor._ledger.outstanding[0]
    fleet.answers.append((0, body.answer(call)))
    assert [trajectory.status for trajectory in executor.poll(0.0)] == ["ok"]


def test_a_worker_that_recovered_is_kept_and_one_that_raised_is_not():
    fleet = Village()
    executor = executor_of(fleet)
    fleet.call_fates = [Answer("rollout_errors", "out of memory"), Answer("exceptions", "Traceback ...")]
    executor.submit(jobs(size=1))
    assert executor.poll()[0].job.attempt == 2
    assert [act for act, *_ in fleet.log] == ["start", "send", "send", "start", "send"]
    assert (executor.events["rollout_errors"], executor.events["exceptions"], executor.events["restarts"]) == (1, 1, 1)


def test_a_worker_that_dies_at_rest_blames_no_job():
    fleet = Village()
    executor = executor_of(fleet)
    executor.poll()
    fleet.answers.append((0, Answer("deaths", "signal SIGKILL")))
    assert executor.poll() == []
    executor.submit(jobs(size=1))
    assert [(trajectory.status, trajectory.job.attempt) for trajectory in executor.poll()] == [("ok", 0)]
    assert (executor.events["deaths"], executor.events["restarts"], executor.events["failed_starts"]) == (0, 1, 0)


def broken():
    raise FileNotFoundError("no weights at `nowhere`")


def test_workers_that_never_start_end_the_run_with_the_reason():
    fleet = Village(2, factory=broken)
    executor = executor_of(fleet, max_failed_starts=3)
    executor.submit(jobs())
    with pytest.raises(ExecutorError, match=r"(?s)3 workers failed.*nowhere"):
        executor.poll()
    assert executor.events["failed_starts"] == 3


def test_one_failed_start_is_made_up_for():
    fleet = Village()
    fleet.start_fates = [Answer("deaths", "signal SIGKILL"), None]
    executor = executor_of(fleet, start_deadline=0.01)
    executor.submit(jobs(size=1))
    assert [trajectory.status for trajectory in executor.poll()] == ["ok"]
    assert (executor.events["failed_starts"], executor.events["restarts"]) == (2, 2)


def test_a_rollout_that_never_succeeds_ends_the_run_with_the_reason():
    fleet = Village()
    executor = executor_of(fleet, max_attempts=1, max_lost_scenes=2)
    bug = Answer("exceptions", "Traceback: NameError")
    fleet.call_fates = [bug, bug, "truth", bug]
    for group in range(3):
        executor.submit(jobs(group, size=1))
    executor.submit(jobs(3, size=1, seed=0))
    with pytest.raises(ExecutorError, match=r"2 scenes were given up.*NameError"):
        everything(executor, 4)


def test_lost_scenes_between_successes_are_borne():
    fleet = Village()
    executor = executor_of(fleet, max_attempts=1, max_lost_scenes=2)
    lost = Answer("deaths", "signal SIGSEGV")
    fleet.call_fates = [lost, "truth", lost, "truth", lost]
    for group in range(5):
        executor.submit(jobs(group, size=1))
    found = everything(executor, 5)
    assert [trajectory.status for trajectory in found] == ["crash", "ok", "crash", "ok", "crash"]
    assert len(executor.quarantined) == 3


def test_workers_that_are_busy_with_cancelled_calls_are_replaced():
    fleet = Village()
    executor = executor_of(fleet)
    executor.poll()
    fleet.call_fates = [None]
    executor.submit(jobs(0, size=3))
    executor.cancel()
    executor.submit(jobs(1, size=1))
    assert [trajectory.job.spec.group for trajectory in everything(executor, 1)] == [1]
    assert [act for act, *_ in fleet.log] == ["start", "send", "start", "send"]
    assert executor.events["cancelled"] == 3


class Miscounting(Reporter):
    def __call__(self, jobs):
        return super().__call__(jobs)[1:]


def test_a_rollout_that_forgets_a_job_breaks_the_executor_which_says_so_and_never_hangs():
    executor = executor_of(Village(factory=Miscounting))
    executor.submit(jobs(0, size=2))
    with pytest.raises(ExecutorError, match="0 of the 1 asked for"):
        executor.poll()
    for use in (executor.poll, lambda: executor.submit(jobs(1)), lambda: executor.set_weights(1, {})):
        with pytest.raises(ExecutorError, match=r"broken; make a new one.*0 of the 1 asked for"):
            use()
    executor.cancel()
    executor.close()


def test_an_interruption_while_it_waits_is_survived_and_one_while_it_settles_breaks_it(monkeypatch):
    def interrupt(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    fleet = Village()
    executor = executor_of(fleet)
    executor.submit(jobs(0, size=2))
    monkeypatch.setattr(fleet, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.poll()
    assert [trajectory.status for trajectory in everything(executor, 2)] == ["ok", "ok"]
    executor.submit(jobs(1, size=1))
    monkeypatch.setattr(executor._ledger, "finish", interrupt)
    with pytest.raises(KeyboardInterrupt):
        executor.poll()
    with pytest.raises(ExecutorError, match=r"broken.*KeyboardInterrupt"):
        executor.poll()


def test_an_answer_that_cannot_be_read_is_an_exception_of_its_call():
    answer = unpacked(b"ca_package_of_the_worker\nThing\n.")
    assert answer.outcome == "exceptions"
    assert "No module named 'a_package_of_the_worker'" in answer.error
    assert unpacked(pickle.dumps(Answer("ready"))) == Answer("ready")


class Views(Reporter):
    """Its decisions are rows of one large tensor that wants a gradient."""

    def __call__(self, jobs):
        large = torch.randn(1000, 64, requires_grad=True)
        row = Decisions(states={"image": large[3:4]}, actions=torch.zeros(5, 1)[:1], log_prob=large[:1, ::2])
        return [Trajectory(job=job, decisions=row, reward=0.0) for job in jobs]


def test_what_travels_takes_no_more_than_its_own_memory():
    executor = executor_of(Village(factory=Views))
    executor.submit(jobs(0, size=1))
    (found,) = executor.poll()
    assert len(pickle.dumps(found.decisions)) < 4 * (64 + 1 + 32) + 2500
    assert not found.decisions.log_prob.requires_grad
    assert found.decisions.log_prob.shape == (1, 32)


def test_a_closed_executor_takes_nothing():
    executor = executor_of(Village())
    with executor:
        pass
    executor.close()
    for use in (lambda: executor.submit(jobs()), executor.poll, lambda: executor.set_weights(1, {})):
        with pytest.raises(ExecutorError, match="closed"):
            use()


@pytest.mark.parametrize(
    "field", ["max_attempts", "max_votes", "max_failed_starts", "max_lost_scenes", "deadline", "start_deadline"]
)
def test_tolerances_below_their_range_are_refused(field):
    with pytest.raises(ConfigError, match=f"`{field}` is 0"):
        FaultTolerance(**{field: 0})


def test_a_ready_answer_is_all_that_a_start_gives():
    assert WorkerBody(Reporter, dict).start() == Answer("ready")
