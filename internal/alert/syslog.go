package alert

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"time"
)

// syslog sends RFC 5424 messages over TLS, each with its length before it (RFC 5425).
type syslog struct{ outlet }

// Send implements Outlet.
func (s *syslog) Send(ctx context.Context, notices []Notice) error {
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	conn, err := (&tls.Dialer{Config: s.tls}).DialContext(ctx, "tcp", s.address())
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", s.address(), err)
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return fmt.Errorf("writing to %s: %w", s.address(), err)
		}
	}
	var frames strings.Builder
	for _, n := range notices {
		m := message(s.settings.Gateway, n)
		fmt.Fprintf(&frames, "%d %s", len(m), m)
	}
	if _, err := conn.Write([]byte(frames.String())); err != nil {
		return fmt.Errorf("writing to %s: %w", s.address(), err)
	}
	// The receiver acknowledges nothing; a close_notify that goes out at least says that the
	// connection stood until then.
	if err := conn.Close(); err != nil {
		return fmt.Errorf("ending the connection to %s: %w", s.address(), err)
	}
	return nil
}

// message is one notice: facility 10 (security, RFC 5424 section 6.2.1), its severity, and
// the alert's identity as structured data under a private enterprise number for examples
// (RFC 5612).
func message(gateway string, n Notice) string {
	severity := map[Severity]int{Critical: 2, Warning: 4}[n.Severity]
	if severity == 0 || n.What == Resolved {
		severity = 6
	}
	when := n.Since
	if n.What == Resolved {
		when = n.Resolution.At
	}
	return fmt.Sprintf("<%d>1 %s %s lazaretd %d alert [alert@32473 id=\"%s\" state=\"%s\" count=\"%d\"] %s: %s",
		10*8+severity, when.UTC().Format(time.RFC3339), header(gateway), os.Getpid(), param(n.ID), n.What, n.Count, n.What, oneLine(n.Text))
}

// header keeps a field of the header to what RFC 5424 section 6 lets stand there.
func header(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	return orElse(s[:min(len(s), 255)], "-")
}

// param escapes a value of structured data (RFC 5424, section 6.3.3).
func param(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(oneLine(s))
}
