//! Deadlines and closing, over in-memory pipes and with a clock that does not wait.
