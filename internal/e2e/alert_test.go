package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testneed"
	"lazaret/internal/testnet"
)

// runLogServer takes syslog over TLS and prints each message on a line of its own.
func runLogServer(ctx context.Context, args []string) error {
	cert, err := tls.LoadX509KeyPair(args[1], args[2])
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", args[0], &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		return err
	}
	fmt.Println("listening")
	context.AfterFunc(ctx, func() { l.Close() })
	for {
		c, err := l.Accept()
		if err != nil {
			return nil
		}
		in := bufio.NewReader(c)
		for {
			length, err := in.ReadString(' ') // RFC 5425: the length of each message stands before it
			n, wrong := strconv.Atoi(strings.TrimSpace(length))
			if err != nil || wrong != nil || n > 10_000 {
				break
			}
			m := make([]byte, n)
			if _, err := io.ReadFull(in, m); err != nil {
				break
			}
			fmt.Printf("%s\n", m)
		}
		c.Close()
	}
}

// logServer runs one at the management server, with a certificate of openssl's.
func logServer(t *testing.T, at string) (roots string, server *testnet.Process) {
	t.Helper()
	openssl := testneed.Program(t, "openssl")
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	host, _, _ := net.SplitHostPort(at)
	command(t, theLab(t).Management, openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
		"-subj", "/CN=log", "-addext", "subjectAltName=IP:"+host, "-days", "2", "-out", cert, "-keyout", key)
	text, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	server, err = theLab(t).Management.Run(soon(t), "logserver", at, cert, key)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the log server to listen", func() bool { return strings.Contains(server.Output(), "listening") })
	t.Cleanup(func() {
		if err := server.Kill(soon(t)); err != nil {
			t.Error(err)
		}
	})
	return string(text), server
}

// TestAlertOfASilentSource: a source that falls silent is listed, told once by syslog through
// the host firewall, acknowledged, and resolved and told when it speaks again.
func TestAlertOfASilentSource(t *testing.T) {
	t.Parallel()
	at := net.JoinHostPort(theLab(t).Plan.Management.V4.String(), "6514")
	roots, server := logServer(t, at)
	g := newGateway(t, options{alertEvery: time.Second, out: []string{"tcp/6514 to " + theLab(t).Plan.Management.V4.String()}})
	g.want(t, http.StatusUnprocessableEntity, "PUT", "/api/v1/outlets/siem", api.OutletRequest{URL: "syslog://" + at}, nil)
	g.want(t, http.StatusOK, "PUT", "/api/v1/outlets/siem", api.OutletRequest{URL: "syslog+tls://" + at, Roots: roots}, nil)
	g.want(t, http.StatusNoContent, "POST", "/api/v1/outlets/siem/test", nil, nil)
	hears := func(parts ...string) {
		t.Helper()
		until(t, strings.Join(parts, " "), func() bool {
			heard := server.Output()
			for _, p := range parts {
				if !strings.Contains(heard, p) {
					return false
				}
			}
			return true
		})
	}
	hears("this is a test of outlet siem")
	g.want(t, http.StatusOK, "PUT", "/api/v1/sources/watch", api.Source{Name: "watch", MayRelease: true, MaxValidity: "1h", Facts: []string{"*"}, Silent: "2s"}, nil)
	hears(`id="silent-source/watch" state="raised" count="1"`, "<82>1 ")
	find := func() (found []api.Alert) {
		t.Helper()
		var list []api.Alert
		g.want(t, http.StatusOK, "GET", "/api/v1/alerts", nil, &list)
		for _, a := range list {
			if a.ID == "silent-source/watch" {
				found = append(found, a)
			}
		}
		return found
	}
	if got := find(); len(got) != 1 || got[0].State != "raised" || got[0].Count != 1 || got[0].Remedy == "" {
		t.Errorf("the list has %+v", got)
	}
	g.want(t, http.StatusOK, "POST", "/api/v1/alerts", api.AlertAction{ID: "silent-source/watch", Action: "acknowledge", Why: "on it"}, nil)
	d := enrolled(t, g, theLab(t).Dev1, api.OTPRequest{User: "alert@example.com"})
	g.want(t, http.StatusOK, "POST", "/api/v1/reports", api.ReportRequest{Device: d.id, Verdict: "compliant", Source: "watch"}, nil)
	hears(`id="silent-source/watch" state="resolved" count="1"`)
	if n := strings.Count(server.Output(), `id="silent-source/watch" state="raised"`); n != 1 {
		t.Errorf("it was told %d times, want once", n)
	}
	actions := map[string]string{}
	for _, e := range g.audit(t, "") {
		if e.Subject == "silent-source/watch" {
			actions[e.Action] += fmt.Sprint(e.By, ";")
		}
	}
	for action, by := range map[string]string{"alert.raise": "gateway ", "alert.acknowledge": "administrator ", "alert.resolve": "gateway "} {
		if !strings.HasPrefix(actions[action], by) {
			t.Errorf("the audit log has %s by %q, want by %s", action, actions[action], by)
		}
	}
}
