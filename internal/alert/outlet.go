package alert

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/mail"
	"net/url"
	"slices"
	"strings"
)

// OutletSettings is an outlet as an administrator writes it. Its password is kept apart.
type OutletSettings struct {
	V        int      `json:"v"`
	Name     string   `json:"name"`
	URL      string   `json:"url"`               // smtps://HOST[:465], smtp://HOST[:587] (STARTTLS, always), syslog+tls://HOST[:6514]
	From     string   `json:"from,omitempty"`    // mail: sender
	To       []string `json:"to,omitempty"`      // mail: receivers
	User     string   `json:"user,omitempty"`    // mail: name to sign in with
	Least    Severity `json:"least,omitempty"`   // default: warning
	RootsPEM string   `json:"roots,omitempty"`   // certificates that the server's may chain to; default: the system's
	Gateway  string   `json:"gateway,omitempty"` // how this gateway is called in it; filled in
}

// Check says everything that is wrong with the settings.
func (s OutletSettings) Check() error {
	var faults []error
	fault := func(bad bool, format string, args ...any) {
		if bad {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	fault(s.Name == "" || len(s.Name) > 64 || strings.ContainsFunc(s.Name, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }),
		"name %.70q: write 1 to 64 characters without spaces and slashes", s.Name)
	u, err := url.Parse(s.URL)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "":
		fault(true, "url: write smtps://HOST, smtp://HOST or syslog+tls://HOST, with a port if it is not the usual one; a user and a password stand apart from it")
	case !slices.Contains([]string{"smtps", "smtp", "syslog+tls"}, u.Scheme):
		fault(true, "url: scheme %q: there are smtps, smtp (with STARTTLS) and syslog+tls; nothing is told in the clear", u.Scheme)
	case u.Scheme != "syslog+tls":
		_, err := mail.ParseAddress(s.From)
		fault(err != nil, "from %q is no mail address", s.From)
		fault(len(s.To) == 0 || len(s.To) > 20, "to: write 1 to 20 mail addresses")
		for _, to := range s.To {
			_, err := mail.ParseAddress(to)
			fault(err != nil, "to: %q is no mail address", to)
		}
	}
	fault(s.Least != "" && s.Least.rank() == 0 && s.Least != Info, "least %q: write info, warning or critical", s.Least)
	if s.RootsPEM != "" {
		fault(!x509.NewCertPool().AppendCertsFromPEM([]byte(s.RootsPEM)), "roots: no certificate in PEM form")
	}
	return errors.Join(faults...)
}

// ParseOutlet reads settings as they are kept.
func ParseOutlet(text []byte) (OutletSettings, error) {
	var s OutletSettings
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("reading outlet: %w", err)
	}
	if s.V != 1 {
		return s, fmt.Errorf("reading outlet %q: version %d is not known", s.Name, s.V)
	}
	return s, nil
}

// NewOutlet makes the outlet that settings describe.
func NewOutlet(s OutletSettings, password string) (Outlet, error) {
	if err := s.Check(); err != nil {
		return nil, fmt.Errorf("making outlet %q: %w", s.Name, err)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return nil, fmt.Errorf("making outlet %q: %w", s.Name, err)
	}
	t := &tls.Config{ServerName: u.Hostname(), MinVersion: tls.VersionTLS12}
	if s.RootsPEM != "" {
		t.RootCAs = x509.NewCertPool()
		t.RootCAs.AppendCertsFromPEM([]byte(s.RootsPEM))
	}
	if s.Least == "" {
		s.Least = Warning
	}
	base := outlet{settings: s, host: u.Hostname(), port: u.Port(), tls: t}
	if u.Scheme == "syslog+tls" {
		base.port = orElse(base.port, "6514")
		return &syslog{base}, nil
	}
	implicit := u.Scheme == "smtps"
	base.port = orElse(base.port, map[bool]string{true: "465", false: "587"}[implicit])
	return &mailer{outlet: base, implicit: implicit, password: password}, nil
}

// outlet is what both kinds share.
type outlet struct {
	settings   OutletSettings
	host, port string
	tls        *tls.Config
}

// Name implements Outlet.
func (o outlet) Name() string { return o.settings.Name }

// Least implements Outlet.
func (o outlet) Least() Severity { return o.settings.Least }

func (o outlet) address() string { return net.JoinHostPort(o.host, o.port) }
