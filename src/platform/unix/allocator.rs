//! The allocator of the static build.
//!
//! Hazard: the C library that zig links keeps what a thread frees for that thread. The ledger and renewals of a gateway have
//! threads of their own, so it grew by megabytes a day. Rule: small pieces come from one heap for all threads, which also
//! needs fewer system calls at the start; large ones are mapped by the C library and go back to the system at once.
#![expect(unsafe_code, reason = "the interface of an allocator is unsafe")]

use std::alloc::{GlobalAlloc, Layout, System};

use dlmalloc::GlobalDlmalloc;

/// Bytes from which the C library maps each piece by itself.
const LARGE: usize = 32 * 1024 + 1;

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: a piece goes back to where it came from, because its layout says which that was.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        unsafe { if layout.size() < LARGE { GlobalDlmalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller's.
        unsafe { if layout.size() < LARGE { GlobalDlmalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe {
            if layout.size() < LARGE { GlobalDlmalloc.dealloc(piece, layout) } else { System.dealloc(piece, layout) }
        }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as the caller's; a piece that moves is copied as far as both have room.
        unsafe {
            match (layout.size() < LARGE, new_size < LARGE) {
                (true, true) => GlobalDlmalloc.realloc(piece, layout, new_size),
                (false, false) => System.realloc(piece, layout, new_size),
                _ => {
                    let moved = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
                    if !moved.is_null() {
                        moved.copy_from_nonoverlapping(piece, layout.size().min(new_size));
                        self.dealloc(piece, layout);
                    }
                    moved
                }
            }
        }
    }
}
