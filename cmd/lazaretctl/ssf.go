package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

func ssfPath(source string, more ...string) string {
	path := "/api/v1/sources/" + url.PathEscape(source) + "/ssf"
	for _, m := range more {
		path += "/" + url.PathEscape(m)
	}
	return path
}

// ssf is about Shared Signals: streams of sources of kind ssf.
func (s *session) ssf() *cobra.Command {
	c := &cobra.Command{Use: "ssf", Short: "Shared Signals streams (CAEP and RISC events)"}
	c.AddCommand(s.setSignals(), s.showSignals(), s.verifySignals(), s.signalsStatus(), s.liftAccount())
	return c
}

func (s *session) signalsCommand(use, short string, args cobra.PositionalArgs, run func(cmd *cobra.Command, args []string) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: args, ValidArgsFunction: s.complete("/api/v1/sources", "name"), RunE: run}
}

func (s *session) setSignals() *cobra.Command {
	var file, authorization, bearer, client string
	c := s.signalsCommand("set NAME -f SETTINGS.json", "Create a stream of a source or change it", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
		var q api.SignalsRequest
		if err := readSettings(file, &q.Settings); err != nil {
			return err
		}
		for _, secret := range []struct {
			file string
			to   **string
		}{{authorization, &q.Authorization}, {bearer, &q.Bearer}, {client, &q.ClientSecret}} {
			text, err := secretFile(secret.file)
			if err != nil {
				return err
			}
			*secret.to = text
		}
		have, _, err := ask[api.Signals](cmd.Context(), s, http.MethodGet, ssfPath(args[0]), nil)
		if err == nil {
			q.Revision = have.Revision // else there is none yet, or the answer to the PUT says why
		}
		v, raw, err := ask[api.Signals](cmd.Context(), s, http.MethodPut, ssfPath(args[0]), q)
		if err != nil {
			return err
		}
		return s.show(cmd, raw, func(w io.Writer) {
			fmt.Fprintln(w, "saved stream", args[0])
			if v.Endpoint != "" {
				fmt.Fprintln(w, "the transmitter is to push to", v.Endpoint)
			}
		})
	})
	c.Long = `Create the stream of a source of kind ssf or change it.

The settings are JSON, "-" reads them from standard input. A secret is the first line of a
file, an empty one removes it; a flag that is left out keeps what there is.`
	c.Example = `  lazaretctl source set idp --kind ssf --may-release --max-validity 24h
  lazaretctl ssf set idp -f idp.json --authorization-file push.txt`
	c.Flags().StringVarP(&file, "file", "f", "", "file with the settings, - for standard input")
	c.Flags().StringVar(&authorization, "authorization-file", "", "file with the Authorization header that a push must bear, whole, like \"Bearer ...\"")
	c.Flags().StringVar(&bearer, "bearer-file", "", "file with the bearer token to send to the transmitter")
	c.Flags().StringVar(&client, "client-secret-file", "", "file with the OAuth 2.0 client secret")
	_ = c.MarkFlagRequired("file")
	return c
}

// readSettings reads JSON with no unknown names, so that a misspelt one is told.
func readSettings(file string, to *api.SignalsSettings) error {
	text, err := []byte(nil), error(nil)
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(os.Stdin, 1<<20))
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return fmt.Errorf("reading the settings: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return fmt.Errorf("reading the settings: %s: %w", file, err)
	}
	return nil
}

// secretFile is the first line of a file, or nil where none is named.
func secretFile(file string) (*string, error) {
	if file == "" {
		return nil, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading a secret: %w", err)
	}
	line, _, _ := strings.Cut(string(b), "\n")
	line = strings.TrimSpace(line)
	return &line, nil
}

func (s *session) showSignals() *cobra.Command {
	return s.signalsCommand("show NAME", "Show a stream and how it does", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
		v, raw, err := ask[api.Signals](cmd.Context(), s, http.MethodGet, ssfPath(args[0]), nil)
		if err != nil {
			return err
		}
		return s.show(cmd, raw, func(w io.Writer) { printSignals(w, v) })
	})
}

func printSignals(w io.Writer, v api.Signals) {
	set := v.Settings
	fmt.Fprintf(w, "source %s: %s from %s, for %s\n", v.Source, set.Delivery, set.Issuer, strings.Join(set.Audience, ", "))
	if v.Endpoint != "" {
		fmt.Fprintln(w, "  pushed to     ", v.Endpoint)
	}
	if set.PollURL != "" {
		fmt.Fprintln(w, "  polled at     ", set.PollURL)
	}
	fmt.Fprintln(w, "  secrets       ", dash(strings.Join(v.Secrets, ", ")))
	if st := v.Status; st != nil {
		fmt.Fprintf(w, "  stream         %s %s\n", dash(st.Stream), st.Reason)
		fmt.Fprintln(w, "  verified      ", ago(st.VerifiedAt))
		fmt.Fprintf(w, "  tokens         %d accepted, of which %d repeated; %d put off; refused: %s\n", st.Accepted, st.Repeated, st.Postponed, refusals(st.Refused))
		fmt.Fprintf(w, "  events         %d taken, %d late, %d moved nobody, %d unknown\n", st.Moved, st.Late, st.Noted, st.Unknown)
		if st.Problem != "" {
			fmt.Fprintln(w, "  problem       ", st.Problem)
		}
	}
	for _, a := range v.Accounts {
		fmt.Fprintf(w, "  against %s: %s\n", a.Account, a.Text)
	}
}

func refusals(by map[string]uint64) string {
	var out []string
	for _, code := range []string{"invalid_request", "invalid_key", "invalid_issuer", "invalid_audience", "authentication_failed", "access_denied"} {
		if by[code] > 0 {
			out = append(out, fmt.Sprintf("%d %s", by[code], code))
		}
	}
	return dash(strings.Join(out, ", "))
}

func (s *session) verifySignals() *cobra.Command {
	return s.signalsCommand("verify NAME", "Ask the transmitter for a verification event, and wait some seconds for it", cobra.ExactArgs(1), func(cmd *cobra.Command, args []string) error {
		v, raw, err := ask[api.SignalsVerified](cmd.Context(), s, http.MethodPost, ssfPath(args[0], "verify"), nil)
		if err != nil {
			return err
		}
		if err := s.show(cmd, raw, func(w io.Writer) {
			if v.Back {
				fmt.Fprintln(w, "the verification event came back")
			}
		}); err != nil {
			return err
		}
		if !v.Back {
			return fmt.Errorf("the transmitter took the request, and no event came back yet; see lazaretctl ssf show %s", args[0])
		}
		return nil
	})
}

func (s *session) signalsStatus() *cobra.Command {
	var why string
	c := s.signalsCommand("status NAME [enabled|paused|disabled]", "Show a stream's status, or have the transmitter change it", cobra.RangeArgs(1, 2), func(cmd *cobra.Command, args []string) error {
		method, path, in := http.MethodGet, ssfPath(args[0]), any(nil)
		if len(args) == 2 {
			method, path, in = http.MethodPut, ssfPath(args[0], "status"), api.SignalsStatusRequest{Status: args[1], Reason: why}
		}
		v, raw, err := ask[api.Signals](cmd.Context(), s, method, path, in)
		if err != nil {
			return err
		}
		return s.show(cmd, raw, func(w io.Writer) {
			if v.Status == nil {
				fmt.Fprintln(w, "not known yet")
				return
			}
			fmt.Fprintln(w, strings.TrimSpace(dash(v.Status.Stream)+" "+v.Status.Reason))
		})
	})
	c.Flags().StringVar(&why, "reason", "", "what the transmitter is told")
	return c
}

func (s *session) liftAccount() *cobra.Command {
	return s.signalsCommand("lift NAME ACCOUNT", "Take back what stands against a user's account", cobra.ExactArgs(2), func(cmd *cobra.Command, args []string) error {
		_, raw, err := ask[any](cmd.Context(), s, http.MethodDelete, ssfPath(args[0], "accounts", args[1]), nil)
		if err != nil {
			return err
		}
		return s.show(cmd, raw, func(w io.Writer) {
			fmt.Fprintln(w, "nothing stands against", args[1], "any more; its devices wait for a word that they are compliant")
		})
	})
}
