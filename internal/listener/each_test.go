package listener

import (
	"bytes"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestClosedConnectionsAreTold once a minute, with how many there were: an office behind one
// address that meets the bound is not left to guess.
func TestClosedConnectionsAreTold(t *testing.T) {
	var text bytes.Buffer
	now := time.Now()
	l := &eachListener{most: 8, log: slog.New(slog.NewTextHandler(&text, nil)), now: func() time.Time { return now }}
	for range 100 {
		l.refuse(netip.MustParseAddr("192.0.2.1"))
	}
	now = now.Add(time.Minute)
	l.refuse(netip.MustParseAddr("192.0.2.1"))
	got := text.String()
	if strings.Count(got, "\n") != 2 || !strings.Contains(got, "address=192.0.2.1 most=8 closed=1\n") || !strings.Contains(got, "closed=100\n") {
		t.Errorf("logged:\n%s", got)
	}
}
