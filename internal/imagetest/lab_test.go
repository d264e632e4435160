package imagetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"lazaret/appliance/screen"
	"lazaret/internal/vm"
)

// built returns the one file of the built image that has this ending.
func built(t testing.TB, ending string) string {
	t.Helper()
	dir := os.Getenv("LAZARET_IMAGE")
	if dir == "" {
		t.Skip("needs a built image: make image-test builds it, or set LAZARET_IMAGE to the directory that holds it")
	}
	found, err := filepath.Glob(filepath.Join(dir, "lazaret-*-amd64-*"+ending))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s holds %v of the files *%s, want one (%v)", dir, found, ending, err)
	}
	path, err := filepath.Abs(found[0])
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// long skips what only the long run does.
func long(t testing.TB) {
	t.Helper()
	if os.Getenv("LONG") != "1" {
		t.Skip("part of the long run: LONG=1 make image-test")
	}
}

// patience bounds one wait for the guest: it is emulated, and the machine may be busy.
const patience = 4 * time.Minute

func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	t.Cleanup(cancel)
	return ctx
}

// shortly bounds one of many tries.
func shortly(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// until asks again and again until the answer is yes.
func until(t testing.TB, what string, ask func() error) {
	t.Helper()
	ctx, tick := soon(t), time.NewTicker(250*time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("not within %v: %s: %v", patience, what, err)
		case <-tick.C:
		}
	}
}

var status = regexp.MustCompile(regexp.QuoteMeta("lazaret: ") + `stage=[^\r\n]*\r`)

// awaits reads statuses off the serial line until one is as wanted.
func awaits(t testing.TB, v *vm.VM, what string, is func(words map[string]string) bool) (map[string]string, time.Duration) {
	t.Helper()
	ctx := soon(t)
	for {
		said, err := v.Expect(ctx, status)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if words, ok := screen.ParseLine(strings.TrimSpace(said.Groups[0])); ok && is(words) {
			t.Logf("%6.1f s after power-on: %s", said.At.Seconds(), what)
			return words, said.At
		}
	}
}

// ready is a gateway that says of both its processes that they are.
func ready(words map[string]string) bool {
	return words["stage"] == "running" && fmt.Sprint(words["ready"]) == "dataplane,serve"
}
