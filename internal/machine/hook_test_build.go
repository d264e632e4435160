//go:build lazarettest

package machine

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/appliance"
)

// An image built with the tag lazarettest takes orders on its second serial line, one to a
// line: kill PART, hold PART (kill it, and stop whatever is started in its place), release,
// freshness DURATION (into the configuration, for who starts next), fill MIB (all of the data
// partition but so much; none: nothing), and show PATH. Each is answered with a line "done",
// or one that begins with "error: "; show prints the file first. No image that is shipped has
// any of this.
func init() {
	if os.Getpid() == 1 {
		go takeOrders("/dev/ttyS1")
	}
}

// takeOrders waits for the device, which is there once /dev is mounted.
func takeOrders(path string) {
	var f *os.File
	for tick := time.NewTicker(100 * time.Millisecond); f == nil; <-tick.C {
		f, _ = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	}
	defer f.Close()
	if t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
		t.Iflag, t.Oflag, t.Lflag = 0, 0, 0 // no echo, no editing
		if unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t) != nil {
			return
		}
	}
	h := &hook{held: map[string]bool{}}
	go h.keep()
	for in := bufio.NewScanner(f); in.Scan(); {
		if err := h.obey(f, strings.Fields(in.Text())); err != nil {
			fmt.Fprintf(f, "error: %v\n", err)
		} else {
			fmt.Fprintln(f, "done")
		}
	}
}

type hook struct {
	mu   sync.Mutex
	held map[string]bool
}

func (h *hook) obey(w io.Writer, words []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case len(words) == 2 && words[0] == "kill":
		return signalPart(words[1], unix.SIGKILL)
	case len(words) == 2 && words[0] == "hold":
		h.held[words[1]] = true
		return signalPart(words[1], unix.SIGKILL)
	case len(words) == 1 && words[0] == "release":
		var faults []error
		for part := range h.held {
			faults = append(faults, signalPart(part, unix.SIGCONT))
		}
		clear(h.held)
		return errors.Join(faults...)
	case len(words) == 2 && words[0] == "freshness":
		text, err := os.ReadFile(appliance.ConfigPath)
		if err != nil {
			return err
		}
		text = regexp.MustCompile(`(?m)^#? *freshness = .*$`).ReplaceAll(text, fmt.Appendf(nil, "freshness = %q", words[1]))
		if !bytes.Contains(text, []byte(words[1])) {
			text = fmt.Appendf(text, "\n[quarantine]\nfreshness = %q\n", words[1])
		}
		return os.WriteFile(appliance.ConfigPath, text, 0o644)
	case len(words) == 2 && words[0] == "fill":
		return fill(words[1])
	case len(words) == 2 && words[0] == "show":
		text, err := os.ReadFile(words[1])
		if err == nil {
			_, err = w.Write(append(bytes.TrimSpace(text), '\n'))
		}
		return err
	}
	return fmt.Errorf("no such order: %q", words)
}

// keep stops the parts that are held, as soon as they are started again.
func (h *hook) keep() {
	for range time.Tick(20 * time.Millisecond) {
		h.mu.Lock()
		for part := range h.held {
			signalPart(part, unix.SIGSTOP) // there may be none just now
		}
		h.mu.Unlock()
	}
}

// signalPart sends a signal to the process that runs as this part.
func signalPart(part string, s unix.Signal) error {
	list, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	for _, path := range list {
		words := bytes.Split(read(path), []byte{0})
		if len(words) < 2 || string(words[1]) != part {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil || pid == 1 {
			return fmt.Errorf("process %s: %w", path, err)
		}
		return unix.Kill(pid, s)
	}
	return fmt.Errorf("no process is %s", part)
}

func read(path string) []byte {
	b, _ := os.ReadFile(path) // a process may end meanwhile
	return b
}
