package alert

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/mail"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
)

// server makes a certificate for 127.0.0.1 and its PEM form.
func server(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

var notices = []Notice{
	{Alert{ID: "silent-source/mdm", Kind: SilentSource, Severity: Critical, Text: "source \"mdm\"] was\r\nBcc: x not heard of", Remedy: "look", Since: noon, Count: 2}, Raised},
	{Alert{ID: "quota", Kind: Quota, Severity: Warning, Text: "half full", Since: noon, Count: 1, Resolution: quarantine.Decision{At: noon.Add(time.Hour)}}, Resolved},
}

// TestSyslog reads frames as RFC 5425 has them and messages as RFC 5424 has them.
func TestSyslog(t *testing.T) {
	cert, roots := server(t)
	l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{cert}})
	got := make(chan []byte, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			got <- nil
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		got <- b
	}()
	o, err := NewOutlet(OutletSettings{V: 1, Name: "log", URL: "syslog+tls://" + l.Addr().String(), RootsPEM: roots, Gateway: "gw 1"}, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Send(t.Context(), notices); err != nil {
		t.Fatal(err)
	}
	rest := string(<-got)
	// PRI: facility 10 times 8, and severity 2 for critical, 6 for what is over.
	for _, want := range []string{
		`^<82>1 2026-03-01T12:00:00Z gw1 lazaretd \d+ alert \[alert@32473 id="silent-source/mdm" state="raised" count="2"\] raised: source "mdm"\] was  Bcc: x not heard of$`,
		`^<86>1 2026-03-01T13:00:00Z gw1 lazaretd \d+ alert \[alert@32473 id="quota" state="resolved" count="1"\] resolved: half full$`,
	} {
		length, after, ok := strings.Cut(rest, " ")
		n, err := strconv.Atoi(length)
		if !ok || err != nil || n > len(after) {
			t.Fatalf("no frame in %q", rest)
		}
		if m := after[:n]; !regexp.MustCompile(want).MatchString(m) {
			t.Errorf("got message\n%s\nwant\n%s", m, want)
		}
		rest = after[n:]
	}
	if rest != "" {
		t.Errorf("%q follows", rest)
	}
}

// TestUntrustedServersAreToldNothing connects to servers whose certificate is nobody's.
func TestUntrustedServersAreToldNothing(t *testing.T) {
	cert, _ := server(t)
	_, other := server(t)
	for _, scheme := range []string{"syslog+tls", "smtps"} {
		l := tls.NewListener(listen(t), &tls.Config{Certificates: []tls.Certificate{cert}})
		got := make(chan int64, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				got <- 0
				return
			}
			defer c.Close()
			n, _ := io.Copy(io.Discard, c)
			got <- n
		}()
		o, err := NewOutlet(OutletSettings{V: 1, Name: "o", URL: scheme + "://" + l.Addr().String(), RootsPEM: other, From: "a@example.com", To: []string{"b@example.com"}}, "")
		if err != nil {
			t.Fatal(err)
		}
		err = o.Send(t.Context(), notices)
		if err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", scheme, err)
		}
		if n := <-got; n != 0 {
			t.Errorf("%s: the server read %d bytes", scheme, n)
		}
	}
}

// submission is a mail server that takes one message (RFC 5321), with TLS from the first
// byte or after STARTTLS.
type submission struct {
	starttls bool
	cert     tls.Certificate
	lines    []string
	data     string
}

func (s *submission) serve(c net.Conn) error {
	conf := &tls.Config{Certificates: []tls.Certificate{s.cert}}
	secure := !s.starttls
	if secure {
		c = tls.Server(c, conf)
	}
	in := bufio.NewReader(c)
	say := func(text string) { fmt.Fprintf(c, "%s\r\n", text) }
	say("220 mail.example.com ESMTP")
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		line = strings.TrimRight(line, "\r\n")
		s.lines = append(s.lines, fmt.Sprintf("%t %s", secure, line))
		switch verb, _, _ := strings.Cut(strings.ToUpper(line), " "); verb {
		case "EHLO":
			if secure {
				say("250-mail.example.com\r\n250 AUTH PLAIN")
			} else {
				say("250-mail.example.com\r\n250 STARTTLS")
			}
		case "STARTTLS":
			say("220 go")
			c = tls.Server(c, conf)
			in, secure = bufio.NewReader(c), true
		case "AUTH":
			say("235 welcome")
		case "DATA":
			say("354 go on")
			for {
				l, err := in.ReadString('\n')
				if err != nil {
					return err
				}
				if l == ".\r\n" {
					break
				}
				s.data += l
			}
			say("250 taken")
		case "QUIT":
			say("221 bye")
			return nil
		default:
			say("250 ok")
		}
	}
}

// TestMail sends mail with TLS from the first byte, and with STARTTLS; nothing is said of a
// password or a message in the clear.
func TestMail(t *testing.T) {
	for _, starttls := range []bool{false, true} {
		cert, roots := server(t)
		s := &submission{starttls: starttls, cert: cert}
		l := listen(t)
		done := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				err = s.serve(c)
				c.Close()
			}
			done <- err
		}()
		scheme := map[bool]string{false: "smtps", true: "smtp"}[starttls]
		o, err := NewOutlet(OutletSettings{V: 1, Name: "mail", URL: scheme + "://" + l.Addr().String(), RootsPEM: roots,
			From: "lazaret@example.com", To: []string{"ops@example.com"}, User: "lazaret", Gateway: "gw"}, "s3cret")
		if err != nil {
			t.Fatal(err)
		}
		if err := o.Send(t.Context(), notices); err != nil {
			t.Fatalf("%s: %v\n%s", scheme, err, strings.Join(s.lines, "\n"))
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, line := range s.lines {
			if verb := strings.TrimPrefix(line, "false "); verb != line && !strings.HasPrefix(verb, "EHLO") && verb != "STARTTLS" && verb != "NOOP" {
				t.Errorf("%s: said in the clear: %s", scheme, line)
			}
		}
		m, err := mail.ReadMessage(strings.NewReader(s.data))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(m.Body)
		if got := m.Header.Get("Subject"); !strings.HasPrefix(got, "[gw] critical: source") || m.Header.Get("Bcc") != "" || m.Header.Get("Auto-Submitted") != "auto-generated" {
			t.Errorf("%s: header %v", scheme, m.Header)
		}
		for _, want := range []string{"RAISED critical since 2026-03-01T12:00:00Z", "What to do: look", "RESOLVED warning", "silent-source/mdm"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s: the mail lacks %q:\n%s", scheme, want, text)
			}
		}
	}
}

// TestMailRefusesTheClear meets a server that offers no STARTTLS.
func TestMailRefusesTheClear(t *testing.T) {
	l := listen(t)
	var lines []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		fmt.Fprint(c, "220 mail.example.com ESMTP\r\n")
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			lines = append(lines, line)
			fmt.Fprint(c, "250 ok\r\n")
		}
	}()
	o, err := NewOutlet(OutletSettings{V: 1, Name: "mail", URL: "smtp://" + l.Addr().String(), From: "a@example.com", To: []string{"b@example.com"}, User: "a"}, "s3cret")
	if err != nil {
		t.Fatal(err)
	}
	if err := o.Send(context.Background(), notices); err == nil {
		t.Error("mail was sent in the clear")
	} else if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the password is in %v", err)
	}
	<-done
	if all := strings.Join(lines, ""); strings.Contains(all, "AUTH") || strings.Contains(all, "MAIL") {
		t.Errorf("said in the clear:\n%s", all)
	}
}

// TestNoticeIsOneLine: what came from outside ends no line of a notice, and turns none round.
func TestNoticeIsOneLine(t *testing.T) {
	m := message("gw", Notice{Alert: Alert{ID: "a", Severity: Critical, Since: time.Now(), Count: 1, Text: "größe x: boom\u0085<80>1 forged\u202e\u2066\n\u2028"}, What: Raised})
	if strings.ContainsAny(m, "\u0085\u202e\u2066\n\u2028") || !strings.Contains(m, "größe") {
		t.Errorf("%q", m)
	}
}
