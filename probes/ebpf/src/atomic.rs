//! Atomic operations on map values.
//!
//! The compiler's BPF target declares no atomic read-modify-write, although the kernel has had the
//! instructions since 5.12. They are written out here. Each is fully ordered, as the kernel defines
//! those that return the old value; `or`, `and` and `add` promise no order, and none is needed for a bit or a sum.

use core::arch::asm;

/// Sets bits.
///
/// # Safety
/// `word` must point to an aligned word of a map value.
#[inline(always)]
pub unsafe fn or(word: *mut u64, bits: u64) {
    // SAFETY: one word is changed, by the contract of this function.
    unsafe { asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(reg) bits) }
}

/// Keeps only the given bits.
///
/// # Safety
/// As [`or`].
#[inline(always)]
pub unsafe fn and(word: *mut u64, bits: u64) {
    // SAFETY: as in `or`.
    unsafe { asm!("lock *(u64 *)({word} + 0) &= {bits}", word = in(reg) word, bits = in(reg) bits) }
}

/// Adds to a word.
///
/// # Safety
/// As [`or`].
#[inline(always)]
pub unsafe fn add(word: *mut u64, addend: u64) {
    // SAFETY: as in `or`.
    unsafe {
        asm!("lock *(u64 *)({word} + 0) += {addend}", word = in(reg) word, addend = in(reg) addend)
    }
}

/// Stores a value and returns the one before.
///
/// # Safety
/// As [`or`].
#[inline(always)]
pub unsafe fn swap(word: *mut u64, value: u64) -> u64 {
    let mut value = value;
    // SAFETY: as in `or`.
    unsafe {
        asm!("{value} = xchg_64({word} + 0, {value})", word = in(reg) word, value = inout(reg) value)
    }
    value
}

/// Stores a value and returns the one before.
///
/// # Safety
/// As [`or`], for a half word.
#[inline(always)]
pub unsafe fn swap32(half: *mut u32, value: u32) -> u32 {
    let mut value = value;
    // SAFETY: as in `or`.
    unsafe {
        asm!("{value} = xchg32_32({half} + 0, {value})", half = in(reg) half, value = inout(wreg) value)
    }
    value
}

/// Stores `new` if the value is `expected`; returns the one before.
///
/// # Safety
/// As [`swap32`].
#[inline(always)]
pub unsafe fn compare_swap32(half: *mut u32, expected: u32, new: u32) -> u32 {
    let mut value = expected;
    // SAFETY: as in `or`. The instruction compares with r0 and leaves the old value there.
    unsafe {
        asm!("w0 = cmpxchg32_32({half} + 0, w0, {new})", half = in(reg) half, new = in(wreg) new, inout("w0") value);
    }
    value
}

/// Adds to a value and returns the one before.
///
/// # Safety
/// As [`swap32`].
#[inline(always)]
pub unsafe fn fetch_add32(half: *mut u32, addend: u32) -> u32 {
    let mut value = addend;
    // SAFETY: as in `or`.
    unsafe {
        asm!("{value} = atomic_fetch_add((u32 *)({half} + 0), {value})", half = in(reg) half, value = inout(wreg) value)
    }
    value
}
