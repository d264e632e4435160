package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

const certificatePath = "/api/v1/certificate"

// certificate is about the server certificate for those who do not know the gateway's root.
func (s *session) certificate() *cobra.Command {
	c := &cobra.Command{Use: "certificate", Short: "The server certificate that browsers and others without the gateway's root are shown",
		Long: `The server certificate that browsers and others are shown who do not know the gateway's own root.
Devices that are enrolled are shown the gateway's own all the same, and so is whoever asks for
an address, or for a name that the certificate does not bear.`}
	c.AddCommand(s.certificateShow(), s.certificateCSR(), s.certificateSet(), s.certificateUnset(), s.certificateACME(), s.certificateRenew())
	return c
}

func (s *session) certificateShow() *cobra.Command {
	return &cobra.Command{Use: "show", Short: "Names, issuer, end and source, and how it goes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, raw, err := ask[api.Certificate](cmd.Context(), s, http.MethodGet, certificatePath, nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { printCertificate(w, got) })
		}}
}

// sources are where certificates come from, in words.
var sources = map[string]string{"own": "the gateway's own", "file": "brought with its key", "request": "brought for the gateway's key", "acme": "by ACME"}

func printCertificate(w io.Writer, c api.Certificate) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", name, printable(fmt.Sprintf(format, args...)))
	}
	one := func(name string, i api.CertificateInfo) {
		line(name, "%s, issued by %s", sources[i.Source], i.Issuer)
		line("", "names %s", strings.Join(i.Names, ", "))
		if len(i.For) > 0 {
			line("", "shown for %s alone", strings.Join(i.For, ", "))
		}
		line("", "valid from %s to %s, %s", day(i.NotBefore), day(i.NotAfter), daysLeft(i.DaysLeft))
		if !i.Renew.IsZero() {
			line("", "renewed from %s on", day(i.Renew))
		}
		line("", "SHA-256 %s", i.SHA256)
	}
	one("shown", c.Shown)
	if c.Kept != nil && c.Kept.SHA256 != c.Shown.SHA256 {
		one("kept", *c.Kept)
	}
	if len(c.Uncovered) > 0 {
		line("problem", "it does not bear %s", strings.Join(c.Uncovered, ", "))
	}
	for _, r := range c.Requests {
		line("waiting", "a key for %s, since %s", strings.Join(r.Names, ", "), day(r.At))
	}
	if a := c.ACME; a != nil {
		line("acme", "%s", a.Directory)
		if a.Account != "" {
			line("", "account %s", a.Account)
		}
		if a.Problem != "" {
			line("problem", "%s (attempt %d, %s; not again before %s)", a.Problem, a.Failures, ago(a.Tried), a.Next.Local().Format(time.DateTime))
		}
	}
	if c.Problem != "" {
		line("problem", "%s", c.Problem)
	}
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }

func daysLeft(n int) string {
	switch {
	case n < 0:
		return "which is over"
	case n == 1:
		return "1 day left"
	}
	return fmt.Sprintf("%d days left", n)
}

func (s *session) certificateCSR() *cobra.Command {
	q, out := api.CertificateRequest{}, ""
	c := &cobra.Command{Use: "csr", Short: "Make a key in the gateway, and a certificate request for it", Args: cobra.NoArgs,
		Long: `Make a key, which never leaves the gateway, and print a certificate request (PKCS#10, PEM) for
it: hand that to your organization's authority, and bring what comes back with "certificate set".
Keys of earlier requests stay good, four in all.`,
		Example: "  lazaretctl certificate csr > gw.csr",
		RunE: func(cmd *cobra.Command, _ []string) error {
			got, raw, err := ask[api.CertificateRequested](cmd.Context(), s, http.MethodPost, certificatePath+"/request", q)
			if err != nil {
				return err
			}
			if out != "" {
				if err := os.WriteFile(out, []byte(got.Request), 0o644); err != nil {
					return err
				}
			} else if err := s.show(cmd, raw, func(w io.Writer) { fmt.Fprint(w, got.Request) }); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "a request for %s; bring the certificate with: lazaretctl certificate set --chain chain.pem\n", strings.Join(got.Names, ", "))
			return nil
		}}
	c.Flags().StringArrayVar(&q.Names, "name", nil, "name to ask for, instead of those of enroll.names; may be given again, and all of those must be among them")
	c.Flags().StringVar(&q.Key, "key", "", "p256 (default), p384 or rsa3072")
	c.Flags().StringVarP(&out, "out", "o", "", "file to write (default: standard output)")
	return c
}

func (s *session) certificateSet() *cobra.Command {
	var f bringFlags
	c := &cobra.Command{Use: "set", Short: "Show a certificate that you bring", Args: cobra.NoArgs,
		Long: `Show a certificate that you bring. The file holds the certificate, then its issuers, in PEM, and
at the end the root where that is your organization's own. The key is the gateway's, from
"certificate csr", unless you give one.

Everything is checked before it is taken, and all that is wrong is told at once. It is shown
from then on; no connection is cut.`,
		Example: `  lazaretctl certificate set --chain chain.pem
  lazaretctl certificate set --chain chain.pem --key-file key.pem
  lazaretctl certificate set --pkcs12 gw.p12 --password-file -`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.read(cmd)
			if err != nil {
				return err
			}
			got, raw, err := ask[api.Certificate](cmd.Context(), s, http.MethodPut, certificatePath, q)
			if err != nil {
				return err
			}
			return s.shownFromNow(cmd, got, raw)
		}}
	c.Flags().StringVar(&f.chain, "chain", "", "PEM file of the certificate and its issuers, - for standard input")
	c.Flags().StringVar(&f.key, "key-file", "", "PEM file of its key, - for standard input")
	c.Flags().StringVar(&f.p12, "pkcs12", "", "PKCS#12 file of certificate, issuers and key, instead")
	c.Flags().StringVar(&f.password, "password-file", "", "file with its password, - for standard input")
	c.Flags().StringArrayVar(&f.names, "for", nil, "name to show it for (default: all that it bears); may be given again")
	return c
}

// shownFromNow prints what is shown, and what that means for those who know our root alone.
func (s *session) shownFromNow(cmd *cobra.Command, got api.Certificate, raw []byte) error {
	if err := s.show(cmd, raw, func(w io.Writer) { printCertificate(w, got) }); err != nil {
		return err
	}
	if got.Kept != nil {
		fmt.Fprintln(cmd.ErrOrStderr(), `Programs that were given root.pem and call the gateway by one of these names, like senders of
webhooks, meet this certificate now: give them its root, too, or have them call another name or
an address. Devices and lazaretctl are not concerned.`)
	}
	return nil
}

func (s *session) certificateUnset() *cobra.Command {
	return &cobra.Command{Use: "unset", Short: "Forget the certificate, and show the gateway's own", Args: cobra.NoArgs,
		Long: `Forget the certificate and its key, and show the gateway's own. Keys of requests that wait for
their certificates stay.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodDelete, certificatePath, nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "the gateway's own certificate is shown") })
		}}
}

func (s *session) certificateRenew() *cobra.Command {
	return &cobra.Command{Use: "renew", Short: "Ask for a certificate by ACME now", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodPost, certificatePath+"/renew", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "asked; see: lazaretctl certificate show") })
		}}
}

func (s *session) certificateACME() *cobra.Command {
	c := &cobra.Command{Use: "acme", Short: "Have the gateway get its certificate by itself"}
	unset := &cobra.Command{Use: "unset", Short: "Get none any more; the one that is there stays until it ends", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodDelete, certificatePath+"/acme", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "no certificate is got by ACME any more") })
		}}
	c.AddCommand(s.certificateACMESet(), unset)
	return c
}

func (s *session) certificateACMESet() *cobra.Command {
	var q api.CertificateACMESet
	mac, roots := "", ""
	c := &cobra.Command{Use: "set", Short: "Get certificates from an ACME server (RFC 8555)", Args: cobra.NoArgs,
		Long: `Get certificates from an ACME server (RFC 8555), and renew them when two thirds of their life are
over. The server proves that the names lead here by a TLS connection to port 443 (tls-alpn-01),
so that it has to reach the enrollment listener there; the gateway has to reach the server
(firewall.out, or firewall.proxy).`,
		Example: `  lazaretctl certificate acme set --directory https://acme-v02.api.letsencrypt.org/directory --contact hostmaster@example.com --agree-terms
  lazaretctl certificate acme set --directory https://ca.example.com/acme/acme/directory --roots root_ca.pem --agree-terms`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if mac == "-" && roots == "-" {
				return errors.New("one file alone can come from standard input")
			}
			for to, file := range map[*string]string{&q.MAC: mac, &q.Roots: roots} {
				if file == "" {
					continue
				}
				text, err := readFileOrStdin(cmd, file)
				if err != nil {
					return err
				}
				*to = strings.TrimSpace(string(text))
			}
			got, raw, err := ask[api.Certificate](cmd.Context(), s, http.MethodPut, certificatePath+"/acme", q)
			if err != nil {
				return err
			}
			if err := s.show(cmd, raw, func(w io.Writer) { printCertificate(w, got) }); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "asked for in a moment, or after the pause where the same was set before; see: lazaretctl certificate show")
			return nil
		}}
	f := c.Flags()
	f.StringVar(&q.Directory, "directory", "", "URL of the server's directory")
	f.StringArrayVar(&q.Contacts, "contact", nil, "mail address that the server may write to; may be given again")
	f.StringArrayVar(&q.Names, "name", nil, "name to ask for, instead of those of enroll.names; may be given again")
	f.BoolVar(&q.Agreed, "agree-terms", false, "you have read the server's terms of service and agree")
	f.StringVar(&q.KeyID, "eab-kid", "", "key id of an external account, where the server wants one")
	f.StringVar(&mac, "eab-key-file", "", "file with its key in base64url, - for standard input")
	f.StringVar(&roots, "roots", "", "PEM file of the server's authorities, where they are no public ones")
	f.StringVar(&q.Key, "key", "", "p256 (default), p384 or rsa3072")
	f.StringArrayVar(&q.For, "for", nil, "name to show it for (default: all that it bears); may be given again")
	_ = c.MarkFlagRequired("directory")
	return c
}
