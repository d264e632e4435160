package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/term"

	"lazaret/appliance"
	"lazaret/appliance/claim"
)

// questions are asked at a terminal; elsewhere nobody is asked.
type questions struct {
	in  io.Reader
	out io.Writer
}

func (q *questions) terminal() (fd int, ok bool) {
	f, is := q.in.(*os.File)
	if !is {
		return 0, false
	}
	return int(f.Fd()), term.IsTerminal(int(f.Fd()))
}

// code reads the claim code from a file, or at the terminal without showing it.
func (q *questions) code(file string) (claim.Code, error) {
	fd, terminal := q.terminal()
	var text string
	var err error
	switch {
	case file != "":
		text, err = readBounded(file, q.in)
	case terminal:
		fmt.Fprint(q.out, "claim code on the machine's screen: ")
		var typed []byte
		typed, err = term.ReadPassword(fd)
		fmt.Fprintln(q.out)
		text = string(typed)
	default:
		return claim.Code{}, errors.New("give the claim code with --code-file FILE, or - for standard input")
	}
	if err != nil {
		return claim.Code{}, fmt.Errorf("reading the claim code: %w", err)
	}
	return claim.ParseCode(strings.TrimSpace(text))
}

// complete asks for what is required and missing.
func (q *questions) complete(s *appliance.Setup) error {
	fd, terminal := q.terminal()
	if !terminal || len(s.EnrollNames) > 0 && len(s.Management) > 0 {
		return nil
	}
	old, err := term.MakeRaw(fd)
	if err != nil {
		return fmt.Errorf("asking at the terminal: %w", err)
	}
	defer func() { _ = term.Restore(fd, old) }()
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{q.in, q.out}, "")
	line := func(prompt string) ([]string, error) {
		t.SetPrompt(prompt)
		text, err := t.ReadLine()
		var out []string
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.Join(strings.Fields(item), " "); item != "" {
				out = append(out, item)
			}
		}
		return out, err
	}
	for _, x := range []struct {
		prompt string
		to     *[]string
	}{
		{"names or addresses devices enroll at, like gw.example.com: ", &s.EnrollNames},
		{`management servers, like "192.0.2.10 tcp/443", with commas between: `, &s.Management},
	} {
		for len(*x.to) == 0 {
			if *x.to, err = line(x.prompt); err != nil {
				return fmt.Errorf("asking at the terminal: %w", err)
			}
		}
	}
	for len(s.AdminNetworks) == 0 {
		list, err := line("networks administrators are on, with commas between (empty: those the machine is on): ")
		if err != nil || len(list) == 0 {
			return err
		}
		for _, text := range list {
			p, err := netip.ParsePrefix(text)
			if err != nil {
				fmt.Fprintf(t, "%q is not a network like 192.0.2.0/24\r\n", text)
				s.AdminNetworks = nil
				break
			}
			s.AdminNetworks = append(s.AdminNetworks, p)
		}
	}
	return nil
}
