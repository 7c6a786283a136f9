"""Publishes one event from a Celery task, which is tried again until the broker has it. Needs: pip install celery

    celery --app tasks worker
    python -c 'import tasks; tasks.feedback_changed.delay(123, 456, 4, 0.75)'

A retry says the same event id: clients see the event once.
"""

import os

from celery import Celery

from realtime_service.blocking import PublishError, broadcast_feedback_update

app = Celery("tasks", broker=os.environ["REALTIME_AMQP_URL"])


@app.task(  # type: ignore[untyped-decorator]
    autoretry_for=(PublishError,), retry_backoff=True, retry_jitter=True, max_retries=None, acks_late=True
)
def feedback_changed(
    diagnosis_id: int, feedback_id: int, rating: int, effectiveness: float, version: int = 1
) -> str:
    """Tell the patient's devices of a feedback; `version` counts its changes."""
    event_id = f"feedback-{feedback_id}-v{version}"
    return broadcast_feedback_update(diagnosis_id, feedback_id, rating, effectiveness, event_id=event_id)
