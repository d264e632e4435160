package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lazaret/internal/console/api"
)

func defaultDir() string {
	if dir := os.Getenv("LAZARET_DIR"); dir != "" {
		return dir
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "/root/.config/lazaret"
	}
	return filepath.Join(dir, "lazaret")
}

// caller speaks to one API with one credential.
type caller struct {
	base  string
	token string
	http  *http.Client
}

// open reads the credential. Every error says which file, and what makes it.
func (s *session) open() (*caller, error) {
	server := s.server
	if server == "" {
		text, err := os.ReadFile(filepath.Join(s.dir, "server"))
		if err != nil {
			return nil, fmt.Errorf("finding the API: %w; make or import a credential with lazaretctl claim or lazaretctl connect, or give --dir with one that they or lazaretd init made, or --server", err)
		}
		server = strings.TrimSpace(string(text))
	}
	if !strings.HasPrefix(server, "https://") {
		return nil, fmt.Errorf("server %q: the API is https:// only", server)
	}
	pem, err := os.ReadFile(filepath.Join(s.dir, "root.pem"))
	if err != nil {
		return nil, fmt.Errorf("reading the root certificate: %w; without it the gateway cannot be known", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(s.dir, "root.pem"))
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots}
	server, t.ServerName = withoutZone(server)
	c := &caller{base: strings.TrimSuffix(server, "/"), http: &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: t, DialContext: dialPatient}}}
	if s.tokenFile != "" {
		c.token, err = readToken(s.tokenFile)
		return c, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(s.dir, "admin.pem"), filepath.Join(s.dir, "admin-key.pem"))
	if err != nil {
		return nil, fmt.Errorf("reading the administrator's certificate: %w; or give --token-file", err)
	}
	t.Certificates = []tls.Certificate{pair}
	return c, nil
}

func readToken(path string) (string, error) {
	text, err := []byte(nil), error(nil)
	if path == "-" {
		text, err = io.ReadAll(io.LimitReader(os.Stdin, 4096))
	} else {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return "", fmt.Errorf("reading the token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if token == "" {
		return "", fmt.Errorf("reading the token: %s is empty", path)
	}
	return token, nil
}

// call makes one request and returns the body of a success.
func (c *caller) call(ctx context.Context, method, path string, in any) ([]byte, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the gateway: %w", unwrapURL(err))
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("reading the gateway's answer: %w", err)
	}
	if resp.StatusCode >= 300 {
		return nil, problem(resp.StatusCode, out)
	}
	return out, nil
}

// unwrapURL adds what to do to the errors people meet first.
func unwrapURL(err error) error {
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return fmt.Errorf("%w: another gateway answers there, or its root changed; compare root.pem", err)
	}
	if strings.Contains(err.Error(), "connection refused") {
		return fmt.Errorf("%w: is lazaretd serve running, and is this its API address?", err)
	}
	return err
}

func problem(status int, body []byte) error {
	var p api.Problem
	if json.Unmarshal(body, &p) != nil || p.Error == "" {
		return fmt.Errorf("the gateway answered %d", status)
	}
	if p.Remedy != "" {
		return fmt.Errorf("%s; %s", p.Error, p.Remedy)
	}
	return errors.New(p.Error)
}

// ask makes a request and decodes the answer into T; raw is the answer as sent.
func ask[T any](ctx context.Context, s *session, method, path string, in any) (v T, raw []byte, err error) {
	c, err := s.open()
	if err != nil {
		return v, nil, err
	}
	raw, err = c.call(ctx, method, path, in)
	if err != nil {
		return v, nil, err
	}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &v); err != nil {
			return v, raw, fmt.Errorf("reading the gateway's answer: %w", err)
		}
	}
	return v, raw, nil
}
