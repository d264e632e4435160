package quarantine

// ReadJournal is the journal's parser, for fuzzing without a disk.
var ReadJournal = readJournal

// Merged puts a change among those pending.
var Merged = merged
