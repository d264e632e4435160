package testneed

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
)

// TPM starts a software TPM 2.0 (swtpm) that keeps its state in dir, and returns a stream of
// TPM commands and answers. One on the same directory is the same TPM after a power cycle.
// end, which may be called more than once, takes its power; so does the end of t.
func TPM(t testing.TB, dir string) (commands net.Conn, end func()) {
	t.Helper()
	program := Program(t, "swtpm")
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	commands, err = net.FileConn(ours)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(program, "socket", "--tpm2", "--fd", "3", "--tpmstate", "dir="+dir, "--flags", "startup-clear,not-need-init", "-t")
	c.ExtraFiles = []*os.File{theirs}
	var said bytes.Buffer
	c.Stderr, c.Stdout = &said, &said
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		commands.Close()
		if err := c.Wait(); err != nil {
			t.Logf("swtpm: %v %s", err, &said)
		}
	})
	t.Cleanup(end)
	return commands, end
}

// TPMSocket starts a software TPM behind a unix socket that takes one command for each
// connection, and returns the socket's path.
func TPMSocket(t testing.TB, dir string) string {
	t.Helper()
	commands, _ := TPM(t, dir)
	path := filepath.Join(dir, "tpm.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if err := passOn(conn, commands); err != nil && !errors.Is(err, io.EOF) {
				t.Errorf("passing a command to the TPM: %v", err)
			}
			conn.Close()
		}
	}()
	t.Cleanup(func() { // before the TPM loses its power
		l.Close()
		<-done
	})
	return path
}

// passOn takes one command to the TPM and its answer back; both fit into 4096 bytes.
func passOn(from, to net.Conn) error {
	b := make([]byte, 4096)
	n, err := from.Read(b)
	if err != nil {
		return err
	}
	if _, err := to.Write(b[:n]); err != nil {
		return err
	}
	if n, err = to.Read(b); err != nil {
		return err
	}
	_, err = from.Write(b[:n])
	return err
}
