package machine

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"
)

// TestOneMount: the EFI partition is mounted once however many use it, read-only for those
// who look, and nobody waits for a user that takes its time.
func TestOneMount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var did []string
		mounted := false
		e := &espMount{
			mount: func(device string, flags uintptr) error {
				if mounted {
					return unix.EBUSY
				}
				mounted = true
				did = append(did, map[bool]string{false: "mount ", true: "mount read-only "}[flags&unix.MS_RDONLY != 0]+device)
				return nil
			},
			unmount: func() error {
				if !mounted {
					return unix.EINVAL
				}
				mounted = false
				did = append(did, "unmount")
				return nil
			},
		}
		nothing := func(string) error { return nil }
		if err := e.with("a", false, nothing); err != nil {
			t.Fatal(err)
		}
		upload, over := make(chan struct{}), make(chan error, 1)
		go func() { over <- e.with("a", true, func(string) error { <-upload; return nil }) }()
		synctest.Wait()
		fault := errors.New("fault")
		if err := errors.Join(e.with("a", true, nothing), e.with("a", false, nothing)); err != nil {
			t.Error(err)
		}
		if err := e.with("a", true, func(string) error { return fault }); !errors.Is(err, fault) {
			t.Error(err)
		}
		if err := e.with("b", true, nothing); err == nil {
			t.Error("another device is where this one is mounted")
		}
		close(upload)
		if err := <-over; err != nil {
			t.Error(err)
		}
		if err := e.with("b", true, nothing); err != nil {
			t.Error(err)
		}
		want := []string{"mount read-only a", "unmount", "mount a", "unmount", "mount b", "unmount"}
		if !slices.Equal(did, want) {
			t.Error(did)
		}
	})
}
