package notify

import (
	"net"
	"path/filepath"
	"testing"
)

// TestReady: the word arrives where the environment says, and without that, or without anybody
// there, nothing happens.
func TestReady(t *testing.T) {
	at := filepath.Join(t.TempDir(), "notify")
	for _, nowhere := range []string{"", at} {
		t.Setenv("NOTIFY_SOCKET", nowhere)
		Ready()
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: at, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	Ready()
	b := make([]byte, 64)
	n, err := l.Read(b)
	if err != nil || string(b[:n]) != "READY=1" {
		t.Errorf("%q, %v", b[:n], err)
	}
}
