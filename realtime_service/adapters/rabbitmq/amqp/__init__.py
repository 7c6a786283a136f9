"""The AMQP 0-9-1 that consuming needs, without a task or a queue per channel, delivery or acknowledgement.

    opening ─► connection ─► channel ─► properties

aiormq 7.2 took some 100 µs of CPU for each event that was delivered and acknowledged, and 10–15 KiB for each channel; a
session has a channel of its own. Publishing stays with it (`confirm_channel`). pamqp writes and reads the methods; what
every event needs is read by hand. Errors are aiormq's, so that one place says in our words what they mean.
"""
