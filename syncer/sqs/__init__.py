"""The queue's edge: SQS through the AWS SDK."""
