package main

import (
	"context"
	"net"
	"sync"
	"time"
)

// answerTime is how long an answer is waited for once no more can be sent.
const answerTime = 10 * time.Second

// patientConn keeps back that it cannot write, until it is closed: who refuses a large body may
// answer and hang up while it is being sent, and net/http takes whichever it learns of first,
// the answer or the failure. What reads meanwhile tells of either, and closes.
type patientConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{}
}

// dialPatient is a DialContext.
func dialPatient(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Timeout: 30 * time.Second}
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return &patientConn{Conn: c, closed: make(chan struct{})}, nil
}

// Write implements net.Conn.
func (c *patientConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		t := time.NewTimer(answerTime)
		defer t.Stop()
		select {
		case <-c.closed:
		case <-t.C:
		}
	}
	return n, err
}

// Close implements net.Conn.
func (c *patientConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
