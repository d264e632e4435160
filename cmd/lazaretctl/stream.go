package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

const streamsPath = "/api/v1/streams"

// stream is about those who are told what happens to devices.
func (s *session) stream() *cobra.Command {
	c := &cobra.Command{Use: "stream", Short: "Who is told what happens to devices"}
	key := &cobra.Command{Use: "key", Short: "Keys that messages to a receiver are signed with"}
	key.AddCommand(s.addStreamKey(), s.removeStreamKey())
	c.AddCommand(s.addStream(), s.setStream(), s.listStreams(), s.showStream(), s.testStream(), s.resumeStream(), s.removeStream(), key, s.streamToken(), s.streamSigner())
	return c
}

func streamPath(name string, more ...string) string {
	path := streamsPath + "/" + url.PathEscape(name)
	for _, m := range more {
		path += "/" + url.PathEscape(m)
	}
	return path
}

// streamFlags are what add and set share.
type streamFlags struct {
	url, audience, caFile, pushFile string
	events, allow                   []string
	addresses                       bool
}

func (f *streamFlags) bind(c *cobra.Command) {
	c.Flags().StringVar(&f.url, "url", "", "where events are sent, https; without one, an ssf receiver asks by itself")
	c.Flags().StringSliceVar(&f.events, "events", nil, "events to tell of, like device.moved or alert.*; none: all")
	c.Flags().BoolVar(&f.addresses, "addresses", false, "also tell from which addresses people and devices asked")
	c.Flags().StringSliceVar(&f.allow, "allow", nil, "link-local and other special networks that the URL may lead to")
	c.Flags().StringVar(&f.caFile, "ca", "", "PEM file of its server's authorities (default: the system's)")
	c.Flags().StringVar(&f.audience, "audience", "", "ssf: aud of its tokens (default: the URL, or the stream's id)")
}

func (f *streamFlags) ca() (string, error) {
	if f.caFile == "" {
		return "", nil
	}
	pem, err := os.ReadFile(f.caFile)
	if err != nil {
		return "", fmt.Errorf("reading the authorities: %w", err)
	}
	return string(pem), nil
}

func (f *streamFlags) networks() ([]netip.Prefix, error) {
	out := []netip.Prefix{}
	for _, text := range f.allow {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("reading --allow: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}

func (s *session) addStream() *cobra.Command {
	var f streamFlags
	var kind string
	c := &cobra.Command{Use: "add NAME --url URL", Short: "Add a receiver and show its secret, once", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			q := api.StreamRequest{Name: args[0], Kind: kind, URL: f.url, Events: f.events, Addresses: f.addresses, Audience: f.audience}
			if q.CA, err = f.ca(); err != nil {
				return err
			}
			if q.Allow, err = f.networks(); err != nil {
				return err
			}
			if f.pushFile != "" {
				if q.Push, err = readToken(f.pushFile); err != nil {
					return err
				}
			}
			v, raw, err := ask[api.Stream](cmd.Context(), s, http.MethodPost, streamsPath, q)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, v.Secret) })
		}}
	f.bind(c)
	c.Flags().StringVar(&kind, "kind", "webhook", "webhook (signed messages) or ssf (Security Event Tokens)")
	c.Flags().StringVar(&f.pushFile, "push-authorization-file", "", "ssf: file with the header Authorization to push with, - for standard input")
	return c
}

func (s *session) setStream() *cobra.Command {
	var f streamFlags
	c := &cobra.Command{Use: "set NAME", Short: "Change a receiver", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(streamsPath, "name")}
	f.bind(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		changed := cmd.Flags().Changed
		var q api.StreamChange
		if changed("url") {
			q.URL = &f.url
		}
		if changed("events") {
			q.Events = &f.events
		}
		if changed("addresses") {
			q.Addresses = &f.addresses
		}
		if changed("audience") {
			q.Audience = &f.audience
		}
		if changed("ca") {
			ca, err := f.ca()
			if err != nil {
				return err
			}
			q.CA = &ca
		}
		if changed("allow") {
			networks, err := f.networks()
			if err != nil {
				return err
			}
			q.Allow = &networks
		}
		v, raw, err := ask[api.Stream](cmd.Context(), s, http.MethodPatch, streamPath(args[0]), q)
		if err != nil {
			return err
		}
		return s.show(cmd, raw, func(w io.Writer) { writeStream(w, v) })
	}
	return c
}

func (s *session) listStreams() *cobra.Command {
	return list(s, "receiver", streamsPath, "NAME KIND STATE WAITING DELIVERED LAST URL", func(v api.Stream) []string {
		return []string{v.Name, v.Kind, streamState(v), fmt.Sprint(v.Health.Waiting), fmt.Sprint(v.Health.Delivered), ago(v.Health.Last), dash(v.URL)}
	})
}

// streamState is how a receiver does, in a word.
func streamState(v api.Stream) string {
	switch {
	case v.Health.Parked:
		return "parked"
	case v.Status != "" && v.Status != "enabled":
		return v.Status
	case v.Health.Problem != "":
		return "failing"
	}
	return "ok"
}

func writeStream(w io.Writer, v api.Stream) {
	fmt.Fprintf(w, "stream %s: %s to %s, made %s by %s\n", v.Name, v.Kind, dash(v.URL), ago(v.Created), v.By)
	events := "all"
	if len(v.Events) > 0 {
		events = strings.Join(v.Events, ", ")
	}
	fmt.Fprintf(w, "events:    %s, addresses: %s\n", events, yes(v.Addresses))
	if v.StreamID != "" {
		fmt.Fprintf(w, "id:        %s, audience: %s, status: %s\n", v.StreamID, dash(v.Audience), v.Status)
	}
	for _, k := range v.Keys {
		fmt.Fprintf(w, "key:       %s, made %s by %s\n", k.ID, ago(k.Created), k.By)
	}
	h := v.Health
	fmt.Fprintf(w, "state:     %s, %d delivered, last %s, %d entries behind\n", streamState(v), h.Delivered, ago(h.Last), h.Waiting)
	if h.Problem != "" {
		fmt.Fprintf(w, "problem:   %s (since %s, %d attempts, next %s)\n", h.Problem, ago(h.Since), h.Failures, ago(h.Next))
	}
	if h.Parked {
		fmt.Fprintf(w, "it is parked: lazaretctl stream resume %s\n", v.Name)
	}
}

// onStream makes a command that does one thing with a receiver and shows it as it is then.
func (s *session) onStream(use, short, method string, more ...string) *cobra.Command {
	return &cobra.Command{Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(streamsPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, raw, err := ask[api.Stream](cmd.Context(), s, method, streamPath(args[0], more...), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { writeStream(w, v) })
		}}
}

func (s *session) showStream() *cobra.Command {
	return s.onStream("show", "Show a receiver and how it does", http.MethodGet)
}

func (s *session) resumeStream() *cobra.Command {
	return s.onStream("resume", "Go on sending to a receiver that was parked, or try at once", http.MethodPost, "resume")
}

func (s *session) testStream() *cobra.Command {
	return &cobra.Command{Use: "test NAME", Short: "Send a ping at once, past the queue", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(streamsPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, raw, err := ask[api.StreamTest](cmd.Context(), s, http.MethodPost, streamPath(args[0], "test"), nil)
			if err != nil {
				return err
			}
			show := s.show(cmd, raw, func(w io.Writer) {
				if v.OK {
					fmt.Fprintln(w, "it took the ping")
				}
			})
			if !v.OK {
				return errors.Join(fmt.Errorf("the ping did not arrive: %s", v.Problem), show)
			}
			return show
		}}
}

func (s *session) removeStream() *cobra.Command {
	c := remove(s, "stream", streamsPath)
	c.Use, c.Aliases, c.Short = "remove NAME", []string{"delete"}, "Remove a receiver; it is told nothing any more"
	return c
}

func (s *session) addStreamKey() *cobra.Command {
	return &cobra.Command{Use: "add NAME", Short: "Add a second key and show its secret, once", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(streamsPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, raw, err := ask[api.HookKey](cmd.Context(), s, http.MethodPost, streamPath(args[0], "keys"), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, k.Secret) })
		}}
}

func (s *session) removeStreamKey() *cobra.Command {
	return &cobra.Command{Use: "remove NAME KEY", Short: "Remove a key; stream show lists them", Args: cobra.ExactArgs(2), ValidArgsFunction: s.complete(streamsPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodDelete, streamPath(args[0], "keys", args[1]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "removed key", args[1], "of stream", args[0]) })
		}}
}

func (s *session) streamToken() *cobra.Command {
	return &cobra.Command{Use: "token NAME", Short: "Give an ssf receiver another token and show it, once", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(streamsPath, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, raw, err := ask[api.StreamToken](cmd.Context(), s, http.MethodPost, streamPath(args[0], "token"), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, v.Secret) })
		}}
}

func (s *session) streamSigner() *cobra.Command {
	return &cobra.Command{Use: "rotate-signer", Short: "Make a new key that signs events for ssf receivers", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodPost, "/api/v1/stream-signer", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "a new key signs; those before it stay published") })
		}}
}
