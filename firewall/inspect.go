package firewall

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Found is what the kernel holds in one network namespace, of all tables and families,
// as a reader sees it who owns nothing and trusts no configuration.
type Found struct {
	Tables     []FoundTable
	Flowtables []string // family, table and name of each; their packets pass no chain of the forward hook
	Objects    []string // family, table, type and name of each: helpers, for one
}

// FoundTable is one table.
type FoundTable struct {
	Family  string // as nft names it
	Name    string
	Flags   uint32 // nf_tables' own
	Owner   uint32 // netlink port of the socket that owns it; zero: nobody
	Chains  []FoundChain
	Sets    map[string][]byte   // definitions, without what the kernel numbers by itself
	Content map[string][]string // elements of the sets that do not change by themselves
}

// FoundChain is one chain.
type FoundChain struct {
	Name     string
	Type     string // empty: no base chain
	Hook     string
	Priority int32
	Drop     bool // the policy
	Rules    []FoundRule
}

// FoundRule is one rule.
type FoundRule struct {
	Text    string   // as nft prints it, where the rule is of a form that this package writes
	Known   bool     // Text says all of it
	Alters  []string // names of expressions that do more than judge the packet: translation, redirection, marks, offload and the like
	accepts bool
	bytes   []byte // as the kernel has it, without counters and handles
}

// Accepts says whether the rule by itself may let a packet pass; one that sends it on to
// another chain does not.
func (r FoundRule) Accepts() bool { return r.accepts }

// Persistent says whether the table outlives its owner.
func (t FoundTable) Persistent() bool { return t.Flags&uint32(nftables.TableFlagPersist) != 0 }

// Owned says whether the table has an owner now.
func (t FoundTable) Owned() bool { return t.Flags&uint32(nftables.TableFlagOwner) != 0 && t.Owner != 0 }

// Dormant says whether the table is switched off.
func (t FoundTable) Dormant() bool { return t.Flags&uint32(nftables.TableFlagDormant) != 0 }

// Chain is the chain of that name; false when there is none.
func (t FoundTable) Chain(name string) (FoundChain, bool) {
	i := slices.IndexFunc(t.Chains, func(c FoundChain) bool { return c.Name == name })
	if i < 0 {
		return FoundChain{}, false
	}
	return t.Chains[i], true
}

// Table is the table of this package's kind with that name.
func (f Found) Table(name string) (FoundTable, bool) {
	i := slices.IndexFunc(f.Tables, func(t FoundTable) bool { return t.Family == "inet" && t.Name == name })
	if i < 0 {
		return FoundTable{}, false
	}
	return f.Tables[i], true
}

// Held is the ruleset that the kernel holds for certain, as this Table wrote it; false
// when nothing is certain.
func (t *Table) Held() (Ruleset, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.held == nil {
		return Ruleset{}, false
	}
	return *t.held, true
}

// Differences says in words where the table of the kernel is not byte for byte what r
// comes to, elements of timed sets and of the quarantined sets aside. What r comes to is
// asked of the same kernel: the ruleset is written into a network namespace made for it,
// which takes CAP_SYS_ADMIN and ends with the call.
func (f Found) Differences(r Ruleset) ([]string, error) {
	want, err := specimen(r)
	if err != nil {
		return nil, fmt.Errorf("writing the ruleset for comparison: %w", err)
	}
	have, ok := f.Table(r.Table)
	if !ok {
		return []string{"there is no table inet " + r.Table}, nil
	}
	return want.differences(have), nil
}

// specimen is the table that r comes to.
func specimen(r Ruleset) (FoundTable, error) {
	var f Found
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: thread and namespace end with the goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("making a network namespace: %w", err)
			}
			t, err := Open(Config{Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				return err
			}
			if err := t.Adopt(r); err != nil {
				return errors.Join(err, t.Close())
			}
			if f, err = Inspect(); err != nil {
				return errors.Join(err, t.Close())
			}
			return t.Close()
		}()
	}()
	if err := <-done; err != nil {
		return FoundTable{}, err
	}
	t, ok := f.Table(r.Table)
	if !ok {
		return FoundTable{}, errors.New("the kernel lost it")
	}
	return t, nil
}

// differences compares what was found with t, which is as it should be.
func (t FoundTable) differences(have FoundTable) []string {
	var list []string
	say := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	for _, c := range t.Chains {
		h, ok := have.Chain(c.Name)
		if !ok {
			say("chain %s is missing", c.Name)
			continue
		}
		if c.Type != h.Type || c.Hook != h.Hook || c.Priority != h.Priority || c.Drop != h.Drop {
			say("chain %s is %s, should be %s", c.Name, h.head(), c.head())
		}
		for i := range max(len(c.Rules), len(h.Rules)) {
			switch {
			case i >= len(h.Rules):
				say("chain %s lacks rule %d: %s", c.Name, i+1, c.Rules[i].Text)
			case i >= len(c.Rules):
				say("chain %s has a rule %d too many: %s", c.Name, i+1, h.Rules[i].Text)
			case string(c.Rules[i].bytes) != string(h.Rules[i].bytes):
				say("chain %s, rule %d: is %s, should be %s", c.Name, i+1, h.Rules[i].Text, c.Rules[i].Text)
			default:
				continue
			}
			break // what follows is out of step
		}
	}
	for _, h := range have.Chains {
		if _, ok := t.Chain(h.Name); !ok {
			say("chain %s should not be there", h.Name)
		}
	}
	return append(list, t.setDifferences(have)...)
}

func (t FoundTable) setDifferences(have FoundTable) []string {
	var list []string
	for name, definition := range t.Sets {
		switch h, ok := have.Sets[name]; {
		case !ok:
			list = append(list, "set "+name+" is missing")
		case string(h) != string(definition):
			list = append(list, "set "+name+" is defined in another way")
		case !slices.Equal(t.Content[name], have.Content[name]):
			list = append(list, "set "+name+" holds other elements")
		}
	}
	for name := range have.Sets {
		if _, ok := t.Sets[name]; !ok {
			list = append(list, "set "+name+" should not be there")
		}
	}
	slices.Sort(list)
	return list
}

// head is what a chain is, in words.
func (c FoundChain) head() string {
	if c.Type == "" {
		return "no base chain"
	}
	policy := "accept"
	if c.Drop {
		policy = "drop"
	}
	return strings.Join([]string{"type", c.Type, "hook", c.Hook, "priority", fmt.Sprint(c.Priority), "policy", policy}, " ")
}
