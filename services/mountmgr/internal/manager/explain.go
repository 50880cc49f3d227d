package manager

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	launchv1 "github.com/juicefs-csi/driver/proto/gen/go/juicefs/csi/launch/v1"
)

// causeLines is how many lines of a client's output an error quotes: it must
// fit the event of a pod.
const causeLines = 3

// A client's log line: "2026/11/21 01:31:59.933004 juicefs[12] <FATAL>: text [func@file.go:12]".
var (
	logPrefix = regexp.MustCompile(`^\S+ \S+ juicefs\[\d+\] <[A-Z]+>: `)
	logSource = regexp.MustCompile(` \[\w+@\w+\.go:\d+\]$`)
)

// describe tells how a process ended and why, in one line.
func describe(exit *launchv1.ExitStatus) string {
	var how string
	switch {
	case exit.GetError() != "":
		how = exit.GetError()
	case exit.GetSignal() != 0:
		how = fmt.Sprintf("killed by signal %d", exit.GetSignal())
	default:
		how = fmt.Sprintf("exit code %d", exit.GetCode())
	}
	if cause := causes(exit.GetStderr()); len(cause) > 0 {
		return how + ": " + strings.Join(cause, "; ")
	}
	return how
}

// causes picks the lines that say why: the worst level that there is, without
// what only developers of the client read, each text once, the last ones.
func causes(lines []string) []string {
	for _, level := range []string{"<FATAL>", "<ERROR>", "<WARNING>"} {
		if found := withLevel(lines, level); len(found) > 0 {
			return last(found)
		}
	}
	return last(slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return strings.Contains(line, "<INFO>") }))
}

func withLevel(lines []string, level string) []string {
	var found []string
	for _, line := range lines {
		if strings.Contains(line, level) {
			found = append(found, logSource.ReplaceAllString(logPrefix.ReplaceAllString(line, ""), ""))
		}
	}
	return found
}

func last(lines []string) []string {
	var distinct []string
	for _, line := range slices.Backward(lines) {
		if len(distinct) < causeLines && !slices.Contains(distinct, line) {
			distinct = append(distinct, line)
		}
	}
	slices.Reverse(distinct)
	return distinct
}
