//! How long a thread waited for a processor, from wake-ups and switches.
//!
//! A wait begins when a thread is made ready, or leaves its processor while it still wants one, and ends with the switch to it. A thread may
//! be made ready while it is still on its way out: the wait then begins when it has left.

/// What is known of a thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sched {
    /// Not where it is. It may have been made ready since.
    #[default]
    Unknown,
    /// The same; it was made ready.
    UnknownReady {
        /// When.
        since: u64,
    },
    /// It has not run yet.
    New {
        /// Since it began, or was made ready.
        since: u64,
        /// It was.
        is_ready: bool,
    },
    /// It runs.
    On {
        /// Where.
        cpu: u16,
        /// Since when, as far as that is accounted for.
        since: u64,
        /// It was made ready since it runs, so that it will not wait.
        is_ready: bool,
    },
    /// It does not.
    Off {
        /// Where it ran.
        cpu: u16,
        /// When it wanted to run again, if it does.
        ready: Option<u64>,
    },
}

/// States of a thread that leaves a processor.
mod state {
    pub const READY: i8 = 1;
    pub const STANDBY: i8 = 3;
    pub const TERMINATED: i8 = 4;
    pub const DEFERRED_READY: i8 = 7;
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It began then.
    Since {
        /// When it began.
        begin: u64,
        /// It ended on another processor than the thread had left.
        moved: bool,
    },
    /// Nobody saw when it began.
    Unknown,
    /// The thread cannot have waited: a switch was not seen.
    Impossible,
}

/// A thread left a processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// It had run there since.
    Ran {
        /// As far as that is not accounted for yet.
        since: u64,
    },
    /// It was not seen to get there, since it was not followed yet.
    Untold,
    /// It cannot have run there: a switch was not seen.
    Impossible,
}

impl Sched {
    /// It is made ready.
    pub fn ready(&mut self, ts: u64) {
        match self {
            Self::Unknown => *self = Self::UnknownReady { since: ts },
            Self::New { since, is_ready } if !*is_ready => (*since, *is_ready) = (ts, true),
            Self::On { is_ready, .. } => *is_ready = true,
            // The first time counts.
            Self::Off { ready, .. } => *ready = ready.or(Some(ts)),
            Self::New { .. } | Self::UnknownReady { .. } => {}
        }
    }

    /// It gets a processor.
    pub fn switch_in(&mut self, ts: u64, cpu: u16) -> Ended {
        let ended = match *self {
            Self::UnknownReady { since } | Self::New { since, .. } => Ended::Since {
                begin: since,
                moved: false,
            },
            Self::Off {
                ready: Some(begin),
                cpu: left,
            } => Ended::Since {
                begin,
                moved: left != cpu,
            },
            Self::Unknown | Self::Off { ready: None, .. } => Ended::Unknown,
            Self::On { .. } => Ended::Impossible,
        };
        *self = Self::On {
            cpu,
            since: ts,
            is_ready: false,
        };
        ended
    }

    /// It leaves a processor in this state.
    pub fn switch_out(&mut self, ts: u64, cpu: u16, state: i8) -> Left {
        let (left, was_readied) = match *self {
            Self::On {
                cpu: on,
                since,
                is_ready,
            } if on == cpu => (Left::Ran { since }, is_ready),
            Self::Unknown | Self::UnknownReady { .. } => (Left::Untold, false),
            _ => (Left::Impossible, false),
        };
        let wants = matches!(state, state::READY | state::STANDBY | state::DEFERRED_READY);
        *self = if state == state::TERMINATED {
            Self::Unknown
        } else {
            Self::Off {
                cpu,
                ready: (wants || was_readied).then_some(ts),
            }
        };
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITING: i8 = 5;

    #[test]
    fn from_wake_up_to_switch() {
        let mut sched = Sched::Off {
            cpu: 1,
            ready: None,
        };
        sched.ready(10);
        sched.ready(15);
        assert_eq!(
            sched.switch_in(30, 2),
            Ended::Since {
                begin: 10,
                moved: true
            }
        );
        assert_eq!(sched.switch_out(50, 2, WAITING), Left::Ran { since: 30 });
        sched.ready(60);
        assert_eq!(
            sched.switch_in(61, 2),
            Ended::Since {
                begin: 60,
                moved: false
            }
        );
    }

    #[test]
    fn preempted() {
        for state in [1, 3, 7] {
            let mut sched = Sched::On {
                cpu: 1,
                since: 5,
                is_ready: false,
            };
            sched.switch_out(10, 1, state);
            assert_eq!(
                sched.switch_in(30, 1),
                Ended::Since {
                    begin: 10,
                    moved: false
                }
            );
        }
    }

    /// Between the decision to wait and the switch.
    #[test]
    fn made_ready_on_the_way_out() {
        let mut sched = Sched::On {
            cpu: 1,
            since: 5,
            is_ready: false,
        };
        sched.ready(9);
        sched.switch_out(10, 1, WAITING);
        assert_eq!(
            sched.switch_in(30, 1),
            Ended::Since {
                begin: 10,
                moved: false
            }
        );
        sched.switch_out(40, 1, WAITING);
        assert_eq!(
            sched.switch_in(50, 1),
            Ended::Unknown,
            "the one before does not count twice"
        );
    }

    #[test]
    fn new_threads() {
        let mut sched = Sched::New {
            since: 5,
            is_ready: false,
        };
        assert_eq!(
            sched.switch_in(8, 1),
            Ended::Since {
                begin: 5,
                moved: false
            }
        );
        let mut sched = Sched::New {
            since: 5,
            is_ready: false,
        };
        sched.ready(7);
        sched.ready(8);
        assert_eq!(
            sched.switch_in(9, 1),
            Ended::Since {
                begin: 7,
                moved: false
            }
        );
    }

    #[test]
    fn what_was_not_seen_is_not_made_up() {
        let mut sched = Sched::Unknown;
        assert_eq!(sched.switch_in(10, 1), Ended::Unknown);
        assert_eq!(sched.switch_in(20, 2), Ended::Impossible);
        assert_eq!(sched.switch_out(30, 1, WAITING), Left::Impossible);
        assert_eq!(sched.switch_in(40, 1), Ended::Unknown);
        sched.switch_out(50, 1, 4);
        assert_eq!(sched, Sched::Unknown);
        assert_eq!(sched.switch_out(60, 1, WAITING), Left::Untold);
        let mut sched = Sched::Unknown;
        sched.ready(5);
        assert_eq!(
            sched.switch_in(9, 0),
            Ended::Since {
                begin: 5,
                moved: false
            }
        );
    }
}
