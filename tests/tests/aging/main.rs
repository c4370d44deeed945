//! Services that get worse, each in one way, and healthy ones that look like it: the likeliest cause of the one is the right
//! one, and the other is left alone. Real processes, in fast motion: a minute is forty.

mod judge;
mod services;
mod software;
