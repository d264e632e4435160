package screen

import (
	"context"
	"fmt"

	"lazaret/appliance"
)

// action is what an entry of the menu runs.
type action = func(context.Context, *terminal, appliance.Status) error

// protect is the entry for what keeps the key of the data partition; nil while that is shut.
func (t *terminal) protect() action {
	a := t.screen.config.Actions
	st, _, _ := t.screen.seen()
	if !st.Disk.Encrypted || a.SetPassphrase == nil || a.Seal == nil || a.NewRecovery == nil {
		return nil
	}
	return protectData
}

// protectData asks what is to keep the key.
func protectData(ctx context.Context, t *terminal, _ appliance.Status) error {
	a := t.screen.config.Actions
	if err := t.say("What opens the data of this machine at its start? Esc leaves everything as it is.",
		" 1  a passphrase, typed here at every start", " 2  the TPM", " 3  the TPM, with a PIN that is typed here at every start",
		" 4  as now, with a new recovery passphrase", ""); err != nil {
		return err
	}
	for {
		text, err := t.ask(ctx, entry{prompt: "Number:", limit: 1})
		if err != nil {
			return err
		}
		switch text {
		case "1":
			chosen, err := t.choose(ctx, "passphrase", appliance.MinPassphrase)
			if err != nil {
				return err
			}
			return t.act(ctx, func(ctx context.Context) error { return a.SetPassphrase(ctx, chosen) })
		case "2":
			if err := t.sure(ctx, "yes"); err != nil {
				return err
			}
			return t.tell(ctx, func(ctx context.Context) (string, error) { return a.Seal(ctx, "") })
		case "3":
			chosen, err := t.choose(ctx, "PIN", appliance.MinPIN)
			if err != nil {
				return err
			}
			return t.tell(ctx, func(ctx context.Context) (string, error) { return a.Seal(ctx, chosen) })
		case "4":
			if err := t.sure(ctx, "yes"); err != nil {
				return err
			}
			return t.tell(ctx, a.NewRecovery)
		}
	}
}

// choose has something secret and new typed twice, without showing it, until it is long enough.
func (t *terminal) choose(ctx context.Context, what string, least int) (string, error) {
	for {
		one, err := t.ask(ctx, entry{prompt: fmt.Sprintf("New %s, %d characters at least:", what, least), limit: MaxAnswer, secret: true})
		if err != nil {
			return "", err
		}
		if wrong := appliance.CheckTyped(what, one, least); wrong != nil {
			if err := t.say("That does not work: " + wrong.Error() + "."); err != nil {
				return "", err
			}
			continue
		}
		two, err := t.ask(ctx, entry{prompt: "The same once more:", limit: MaxAnswer, secret: true})
		if err != nil {
			return "", err
		}
		if one == two {
			return one, nil
		}
		if err := t.say("The two were not the same."); err != nil {
			return "", err
		}
	}
}

// tell does what may make a recovery passphrase, and shows that on this console alone.
func (t *terminal) tell(ctx context.Context, do func(context.Context) (string, error)) error {
	recovery := ""
	return t.act(ctx, func(ctx context.Context) (err error) {
		if recovery, err = do(ctx); err != nil || recovery == "" {
			return err
		}
		return t.say("", "Recovery passphrase, for when nothing else opens the data:", "", "    "+recovery, "", "Write it down: it is not shown again.")
	})
}
