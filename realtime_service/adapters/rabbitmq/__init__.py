"""AMQP is spoken here and nowhere else."""
