package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

const hooksPath = "/api/v1/hooks"

// hook is about signed webhooks that management servers send.
func (s *session) hook() *cobra.Command {
	c := &cobra.Command{Use: "hook", Short: "Signed webhooks that management servers send"}
	key := &cobra.Command{Use: "key", Short: "Keys that a source signs its webhooks with"}
	key.AddCommand(s.addHookKey(), s.listHookKeys(), s.removeHookKey())
	c.AddCommand(key, s.listHooks(), s.hookWindow())
	return c
}

func hookPath(source string, more ...string) string {
	path := hooksPath + "/" + url.PathEscape(source)
	for _, m := range more {
		path += "/" + url.PathEscape(m)
	}
	return path
}

func (s *session) listHooks() *cobra.Command {
	return list(s, "source that sends webhooks", hooksPath, "SOURCE KEYS WINDOW URL", func(h api.Hook) []string {
		var ids []string
		for _, k := range h.Keys {
			ids = append(ids, k.ID)
		}
		return []string{h.Source, dash(strings.Join(ids, ",")), h.Window, h.URL}
	})
}

func (s *session) addHookKey() *cobra.Command {
	return &cobra.Command{Use: "add SOURCE", Short: "Add a key and show its secret, once", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/sources", "name"),
		Long: `Add a key to a source of kind webhook and show its secret, once.

The source has up to three keys, all of them good: to change one, add the next, give it to
the sender, and remove the old one.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			k, raw, err := ask[api.HookKey](cmd.Context(), s, http.MethodPost, hookPath(args[0], "keys"), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, k.Secret) })
		}}
}

func (s *session) listHookKeys() *cobra.Command {
	return &cobra.Command{Use: "list SOURCE", Short: "List a source's keys", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/sources", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, raw, err := ask[api.Hook](cmd.Context(), s, http.MethodGet, hookPath(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				rows := [][]string{}
				for _, k := range h.Keys {
					rows = append(rows, []string{k.ID, ago(k.Created), k.By})
				}
				grid(w, "KEY CREATED BY", rows)
			})
		}}
}

func (s *session) removeHookKey() *cobra.Command {
	return &cobra.Command{Use: "remove SOURCE KEY", Short: "Remove a key; it signs nothing from then on", Args: cobra.ExactArgs(2), ValidArgsFunction: s.complete("/api/v1/sources", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodDelete, hookPath(args[0], "keys", args[1]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "removed key", args[1], "of source", args[0]) })
		}}
}

func (s *session) hookWindow() *cobra.Command {
	return &cobra.Command{Use: "window SOURCE DURATION", Short: "How far a message's time stamp may be from now, 10s to 5m", Args: cobra.ExactArgs(2), ValidArgsFunction: s.complete("/api/v1/sources", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, raw, err := ask[api.Hook](cmd.Context(), s, http.MethodPut, hookPath(args[0]), api.HookRequest{Window: args[1]})
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "source", h.Source, "has a window of", h.Window) })
		}}
}
