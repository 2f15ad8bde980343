//! The gateway as a process: started, restarted, stopped, killed.
