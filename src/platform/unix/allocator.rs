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

#[cfg_attr(target_env = "musl", global_allocator)]
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A piece of one test, filled with one byte.
    struct Piece {
        at: *mut u8,
        layout: Layout,
        filling: u8,
    }

    impl Piece {
        fn new((size, alignment): (usize, usize), is_zeroed: bool) -> Self {
            let layout = Layout::from_size_align(size, alignment).unwrap();
            // SAFETY: no size is zero.
            let at = unsafe { if is_zeroed { ALLOCATOR.alloc_zeroed(layout) } else { ALLOCATOR.alloc(layout) } };
            let piece = Self { at, layout, filling: 0 };
            piece.check_place();
            assert!(!is_zeroed || piece.bytes().iter().all(|byte| *byte == 0), "{layout:?} is not zeroed");
            piece
        }

        fn check_place(&self) {
            assert!(!self.at.is_null() && self.at.addr().is_multiple_of(self.layout.align()), "{:?}", self.layout);
        }

        fn bytes(&self) -> &[u8] {
            // SAFETY: the piece is as long, and only this test writes to it.
            unsafe { std::slice::from_raw_parts(self.at, self.layout.size()) }
        }

        fn fill(&mut self, filling: u8) {
            self.filling = filling;
            // SAFETY: the piece is as long.
            unsafe { self.at.write_bytes(filling, self.layout.size()) };
        }

        fn resize(&mut self, size: usize) {
            let kept = self.layout.size().min(size);
            // SAFETY: the piece is of this allocator and layout.
            self.at = unsafe { ALLOCATOR.realloc(self.at, self.layout, size) };
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
            self.check_place();
            let is_kept = self.bytes()[..kept].iter().all(|byte| *byte == self.filling);
            assert!(is_kept, "{:?} lost bytes", self.layout);
            self.fill(self.filling);
        }

        fn free(self) {
            let is_whole = self.bytes().iter().all(|byte| *byte == self.filling);
            assert!(is_whole, "{:?} was written to by another", self.layout);
            // SAFETY: the piece is of this allocator and layout.
            unsafe { ALLOCATOR.dealloc(self.at, self.layout) };
        }
    }

    /// Sizes of all magnitudes, and those around the border.
    fn size() -> impl Strategy<Value = usize> {
        let magnitudes = (0_u32..18).prop_flat_map(|bits| 1_usize << bits..2 << bits);
        prop_oneof![magnitudes, LARGE - 9..LARGE + 9]
    }

    fn size_and_alignment() -> impl Strategy<Value = (usize, usize)> {
        (size(), (0_u32..13).prop_map(|bits| 1_usize << bits))
    }

    proptest! {
        #[test]
        fn pieces_keep_their_bytes_across_the_border_and_do_not_overlap(
            made in prop::collection::vec((size_and_alignment(), any::<bool>()), 1..20),
            resized in prop::collection::vec((any::<prop::sample::Index>(), size()), 0..40),
        ) {
            let mut pieces: Vec<Piece> = Vec::new();
            for (filling, (layout, is_zeroed)) in (1..).zip(made) {
                let mut piece = Piece::new(layout, is_zeroed);
                piece.fill(filling);
                pieces.push(piece);
            }
            for (which, size) in resized {
                which.get_mut(&mut pieces).resize(size);
            }
            pieces.into_iter().for_each(Piece::free);
        }
    }
}
