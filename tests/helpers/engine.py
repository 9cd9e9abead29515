"""An engine as an evaluator runs it."""

from ignite.engine import Engine
from monai.engines import IterationEvents


def run_subjects(handler, outputs, batches=None):
    """Run an engine over subjects as an evaluator with decollation does."""
    batches = batches or [{"subject": f"s{n}"} for n in range(len(outputs))]

    def step(engine, number):
        engine.state.batch, engine.state.output = [batches[number]], [outputs[number]]
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    handler.attach(engine)
    engine.run(range(len(outputs)))
