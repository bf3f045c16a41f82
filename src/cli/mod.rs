//! Commands and their dispatch; the only place that knows clap.
