package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

// maxSettings bounds a file of settings or with a secret, in bytes.
const maxSettings = 64 << 10

// sourceConfigure says how a source is asked. Secrets come from files or standard input: a
// command line is seen by every process of the machine, and kept in histories.
func (s *session) sourceConfigure() *cobra.Command {
	var file string
	var set, unset, secret []string
	c := s.sourceCommand("configure NAME", "Say how a Fleet, Intune or Jamf Pro server is asked", func(cmd *cobra.Command, args []string) error {
		was, _, err := ask[api.Connection](cmd.Context(), s, http.MethodGet, sourcePath(args[0], "settings"), nil)
		if err != nil {
			return err
		}
		q := api.ConnectionRequest{Settings: was.Settings, Secrets: map[string]*string{}, Revision: was.Revision}
		if file != "" {
			if q.Settings, err = readTOML(file); err != nil {
				return err
			}
		}
		if err := changeSettings(q.Settings, set, unset); err != nil {
			return err
		}
		if err := readSecrets(q.Secrets, secret, cmd.InOrStdin()); err != nil {
			return err
		}
		v, raw, err := ask[api.Connection](cmd.Context(), s, http.MethodPut, sourcePath(args[0], "settings"), q)
		if err != nil {
			return err
		}
		return s.show(cmd, raw, func(w io.Writer) {
			fmt.Fprintln(w, "saved how source", args[0], "is asked")
			printConnection(w, v)
		})
	})
	c.Long = `Say how a Fleet, Intune or Jamf Pro server is asked. Settings that are not named stay as
they are; a file replaces them all. Secrets are read from files, "-" is standard input; an
empty one is forgotten. They are sealed, and never shown again. After a change of server
all secrets must be given again.`
	c.Example = `  lazaretctl source configure fleet --set url=https://fleet.example.com --secret token=token.txt
  lazaretctl source configure intune -f intune.toml --secret client_secret=-
  lazaretctl source configure jamf --set url=https://example.jamfcloud.com --set client_id=... --set group="Compliant Macs" --secret client_secret=secret.txt`
	f := c.Flags()
	f.StringVarP(&file, "file", "f", "", "TOML file with all settings")
	f.StringArrayVar(&set, "set", nil, "a setting, like interval=5m; repeat one for a list; ca=@FILE reads a file")
	f.StringSliceVar(&unset, "unset", nil, "settings to take away")
	f.StringArrayVar(&secret, "secret", nil, "a secret and the file that holds it, like token=FILE")
	return c
}

// readTOML reads settings from a file.
func readTOML(file string) (map[string]any, error) {
	text, err := readBounded(file, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the settings: %w", err)
	}
	var v map[string]any
	if err := toml.Unmarshal([]byte(text), &v); err != nil {
		return nil, fmt.Errorf("reading the settings: %s: %w", file, err)
	}
	if v == nil {
		v = map[string]any{}
	}
	return v, nil
}

// changeSettings applies --set and --unset.
func changeSettings(v map[string]any, set, unset []string) error {
	for _, name := range unset {
		delete(v, name)
	}
	given := map[string][]string{}
	for _, text := range set {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return fmt.Errorf("--set %q: write a name, = and a value", text)
		}
		if path, is := strings.CutPrefix(value, "@"); is {
			read, err := readBounded(path, nil)
			if err != nil {
				return fmt.Errorf("--set %s: %w", name, err)
			}
			value = read
		}
		given[name] = append(given[name], value)
	}
	for name, values := range given {
		switch {
		case len(values) > 1:
			v[name] = values
		case values[0] == "true" || values[0] == "false":
			v[name] = values[0] == "true"
		default:
			v[name] = values[0]
		}
	}
	return nil
}

// readSecrets reads what --secret names.
func readSecrets(to map[string]*string, secret []string, in io.Reader) error {
	for _, text := range secret {
		name, path, ok := strings.Cut(text, "=")
		if !ok || name == "" || path == "" {
			return fmt.Errorf("--secret %s: write its name, = and the file that holds it", name)
		}
		value, err := readBounded(path, in)
		if err != nil {
			return fmt.Errorf("reading secret %s: %w", name, err)
		}
		value = strings.TrimSpace(value)
		to[name] = &value
	}
	return nil
}

// readBounded reads a file, or in where the path is "-".
func readBounded(path string, in io.Reader) (string, error) {
	if path != "-" || in == nil {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxSettings+1))
	if err == nil && len(text) > maxSettings {
		err = fmt.Errorf("%s is longer than %d KiB", path, maxSettings>>10)
	}
	return string(text), err
}

func printConnection(w io.Writer, v api.Connection) {
	for _, name := range slices.Sorted(maps.Keys(v.Settings)) {
		text := fmt.Sprint(v.Settings[name])
		fmt.Fprintf(w, "  %s = %s\n", name, clip(strings.ReplaceAll(text, "\n", " ")))
	}
	fmt.Fprintf(w, "  secrets: %s\n", dash(strings.Join(v.Secrets, ", ")))
	if v.Webhook != "" {
		fmt.Fprintf(w, "  its webhooks may go to %s\n", v.Webhook)
	}
}
