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
	"sync"
	"time"

	"lazaret/internal/console/api"
	"lazaret/internal/testnet"
)

// apiRequest is one request to the gateway's API, made on the management host.
type apiRequest struct {
	Method string          `json:"method"`
	Path   string          `json:"path"`
	Body   json.RawMessage `json:"body,omitempty"`
	Token  bool            `json:"token"` // as the management server; else as the administrator
}

// apiAnswer is the answer, with when the request was sent and the answer there.
type apiAnswer struct {
	Status   int             `json:"status"`
	Body     json.RawMessage `json:"body,omitempty"`
	Sent     testnet.Stamp   `json:"sent"`
	Answered testnet.Stamp   `json:"answered"`
	Error    string          `json:"error,omitempty"`
}

// runOperator makes requests that it reads on standard input; the argument is the
// directory that lazaretd init made for the administrator.
func runOperator(ctx context.Context, args []string) error {
	dir := args[0]
	read := func(name string) (string, error) {
		b, err := os.ReadFile(filepath.Join(dir, name))
		return strings.TrimSpace(string(b)), err
	}
	base, err1 := read("server")
	root, err2 := read("root.pem")
	token, err3 := read("management-token")
	pair, err4 := tls.LoadX509KeyPair(filepath.Join(dir, "admin.pem"), filepath.Join(dir, "admin-key.pem"))
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(root))
	client := func(certs ...tls.Certificate) *http.Client {
		return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: certs},
		}}
	}
	admin, management := client(pair), client()
	return answerAll(func(q apiRequest) apiAnswer {
		h := http.Header{"Content-Type": {"application/json"}}
		c := admin
		if q.Token {
			c = management
			h.Set("Authorization", "Bearer "+token)
		}
		return makeRequest(ctx, c, q.Method, base+q.Path, h, q.Body)
	})
}

// answerAll reads requests on standard input until there is no more, and reports the
// answer to each.
func answerAll[Q any](answer func(Q) apiAnswer) error {
	in := json.NewDecoder(os.Stdin)
	for {
		var q Q
		if err := in.Decode(&q); err != nil {
			return nil // nobody asks any more
		}
		if err := testnet.Report(answer(q)); err != nil {
			return err
		}
	}
}

func makeRequest(ctx context.Context, c *http.Client, method, url string, header http.Header, text []byte) apiAnswer {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(text))
	if err != nil {
		return apiAnswer{Error: err.Error()}
	}
	req.Header = header
	a := apiAnswer{Sent: testnet.Now()}
	resp, err := c.Do(req)
	a.Answered = testnet.Now()
	if err != nil {
		a.Error = err.Error()
		return a
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		a.Error = err.Error()
	}
	a.Status = resp.StatusCode
	if json.Valid(body) {
		a.Body = body
	}
	return a
}

// asker is the demo's end of a process that makes requests: one at a time.
type asker struct {
	process *testnet.Process
	input   *os.File
	mu      sync.Mutex
}

func newAsker(ctx context.Context, h *testnet.Host, role string, args ...string) (*asker, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p, err := h.Start(ctx, testnet.Spec{Role: role, Args: args, Stdin: r})
	if err != nil {
		return nil, errors.Join(err, r.Close(), w.Close())
	}
	return &asker{process: p, input: w}, nil
}

// ask hands a request over and returns the answer, whatever its status.
func (o *asker) ask(ctx context.Context, q any) (a apiAnswer, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := json.NewEncoder(o.input).Encode(q); err != nil {
		return a, err
	}
	if err := o.process.Next(ctx, &a); err != nil {
		return a, err
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// operator is what an administrator and a management server do, from the management
// network.
type operator struct{ *asker }

func newOperator(ctx context.Context, h *testnet.Host, dir string) (*operator, error) {
	a, err := newAsker(ctx, h, "operator", dir)
	return &operator{a}, err
}

// errStatus is an answer that is no success.
var errStatus = errors.New("the gateway refused")

// call makes a request and reads the answer into out, unless that is nil.
func (o *operator) call(ctx context.Context, q apiRequest, in, out any) (apiAnswer, error) {
	what := q.Method + " " + q.Path
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return apiAnswer{}, err
		}
		q.Body = b
	}
	a, err := o.ask(ctx, q)
	if err != nil {
		return a, fmt.Errorf("%s: %w", what, err)
	}
	if a.Status >= 300 {
		var p api.Problem
		_ = json.Unmarshal(a.Body, &p) // the status alone says enough
		return a, fmt.Errorf("%s: %w: %d %s", what, errStatus, a.Status, p.Error)
	}
	if out == nil {
		return a, nil
	}
	return a, json.Unmarshal(a.Body, out)
}

func (o *operator) get(ctx context.Context, path string, out any) error {
	_, err := o.call(ctx, apiRequest{Method: http.MethodGet, Path: path}, nil, out)
	return err
}

func (o *operator) post(ctx context.Context, path string, in, out any) (apiAnswer, error) {
	return o.call(ctx, apiRequest{Method: http.MethodPost, Path: path}, in, out)
}

func (o *operator) put(ctx context.Context, path string, in, out any) error {
	_, err := o.call(ctx, apiRequest{Method: http.MethodPut, Path: path}, in, out)
	return err
}

// report posts a report as the management server, with the token that may do that alone.
func (o *operator) report(ctx context.Context, device, verdict string, validity time.Duration) (apiAnswer, api.Placed, error) {
	var placed api.Placed
	q := api.ReportRequest{Device: device, Verdict: verdict}
	if validity > 0 {
		q.Validity = validity.String()
	}
	a, err := o.call(ctx, apiRequest{Method: http.MethodPost, Path: "/api/v1/reports", Token: true}, q, &placed)
	return a, placed, err
}

func (o *operator) explain(ctx context.Context, device string) (api.Explanation, error) {
	var x api.Explanation
	return x, o.get(ctx, "/api/v1/devices/"+device+"/explain", &x)
}
