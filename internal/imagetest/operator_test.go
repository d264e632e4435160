package imagetest

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"lazaret/internal/console/api"
)

// operator asks the gateway's API with the credential that the claim left.
type operator struct {
	admin, bare *http.Client
	token       string
	at          netip.AddrPort
}

// newOperator reads what lazaretctl claim left in dir. The API's port at is forwarded.
func newOperator(t testing.TB, dir string, at netip.AddrPort) *operator {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	pair, err := tls.X509KeyPair(read("admin.pem"), read("admin-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(read("root.pem"))
	o := &operator{token: strings.TrimSpace(string(read("management-token"))), at: at}
	with := func(certs ...tls.Certificate) *http.Client {
		c := &http.Client{Timeout: patience, Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, o.at.String())
			},
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: certs},
		}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	o.admin, o.bare = with(pair), with()
	return o
}

// ask makes one request; in may be nil, JSON, or an io.Reader that goes as it is.
func (o *operator) ask(ctx context.Context, by *http.Client, method, path string, in, out any) (int, error) {
	body, raw := in.(io.Reader)
	if in != nil && !raw {
		b, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://127.0.0.1"+path, body)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if raw {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	if by == o.bare {
		req.Header.Set("Authorization", "Bearer "+o.token)
	}
	resp, err := by.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, err
	}
	if resp.StatusCode >= 300 {
		return resp.StatusCode, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, text)
	}
	if out != nil {
		return resp.StatusCode, json.Unmarshal(text, out)
	}
	return resp.StatusCode, nil
}

// must asks as the administrator.
func (o *operator) must(t testing.TB, method, path string, in, out any) {
	t.Helper()
	if _, err := o.ask(soon(t), o.admin, method, path, in, out); err != nil {
		t.Fatal(err)
	}
}

// report says a device's verdict with the management server's token, and returns the stage
// that came of it.
func (o *operator) report(t testing.TB, device, verdict string) string {
	t.Helper()
	stage, err := o.place(soon(t), device, verdict)
	if err != nil {
		t.Fatal(err)
	}
	return stage
}

// place is report; one that is recorded and not enforced is an error.
func (o *operator) place(ctx context.Context, device, verdict string) (stage string, err error) {
	var p api.Placed
	if _, err := o.ask(ctx, o.bare, "POST", "/api/v1/reports", api.ReportRequest{Device: device, Verdict: verdict}, &p); err != nil {
		return "", err
	}
	if !p.Enforced {
		return p.Decision.Stage, fmt.Errorf("the report on %s is recorded, and not enforced", device)
	}
	return p.Decision.Stage, nil
}

// program builds one of our programs.
func program(t testing.TB, of string, flags ...string) string {
	t.Helper()
	path, err := buildProgram(t.Context(), t.TempDir(), of, flags...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func buildProgram(ctx context.Context, dir, of string, flags ...string) (string, error) {
	out := filepath.Join(dir, filepath.Base(of))
	c := exec.CommandContext(ctx, "go", append(append([]string{"build", "-trimpath"}, flags...), "-o", out, of)...)
	c.Dir, c.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w %s", of, err, text)
	}
	return out, nil
}
