package form

// farthest is how many letters a typing error is away at most.
const farthest = 3

// Meant is the one of known that somebody probably meant who wrote text, which is none of
// them: the first of the nearest, by letters that are wrong, missing or too many; "" where
// none is near.
func Meant(text string, known []string) string {
	best, at := "", min(farthest+1, len(text)) // every letter wrong is no typing error
	for _, k := range known {
		if max(len(k)-len(text), len(text)-len(k)) >= at {
			continue // so many are missing or too many at least
		}
		if n := distance(text, k); n < at {
			best, at = k, n
		}
	}
	return best
}

// distance is the Levenshtein distance of two texts, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			step := corner
			if a[i] != b[j] {
				step++
			}
			corner = row[j+1]
			row[j+1] = min(step, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
