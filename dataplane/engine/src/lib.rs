//! Batches, stages, workers and port drivers.
