package volume

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Compiled once: settings are resolved at every publish.
var communityTag = regexp.MustCompile(`:ce-v((\d+)\.(\d+)\.\d+)[^/:]*$`)

// WithImage is a copy of the settings for another image of the mount pod.
func (s Settings) WithImage(image string) Settings {
	s.Pod.Image = image
	s.Classic, s.ClassicReason = classic(s.Edition, image)
	return s
}

// classify decides whether the client makes its kernel mount itself. Such a
// client needs root, so that other ids of the pod do not count.
func (s *Settings) classify() {
	s.Classic, s.ClassicReason = classic(s.Edition, s.Pod.Image)
	if s.Classic {
		s.Pod.RunAsUser, s.Pod.RunAsGroup = nil, nil
		return
	}
	s.Pod.dropBlindHooks()
}

// classic says whether a client cannot take over a connection, and why.
func classic(edition Edition, image string) (needed bool, reason string) {
	if edition == Enterprise {
		return true, "the client of the Enterprise edition makes its mount itself"
	}
	if version, old := olderThanHandOver(image); old {
		return true, fmt.Sprintf("the client of image %s is version %s: from 1.2.0 on clients take over a mount", image, version)
	}
	return false, ""
}

// olderThanHandOver reads the version in the tag of a Community image. A tag
// that says none counts as new enough.
func olderThanHandOver(image string) (version string, old bool) {
	name, _, _ := strings.Cut(image, "@")
	match := communityTag.FindStringSubmatch(name)
	if match == nil {
		return "", false
	}
	major, errMajor := strconv.Atoi(match[2])
	minor, errMinor := strconv.Atoi(match[3])
	if errMajor != nil || errMinor != nil {
		return "", false
	}
	return match[1], major < 1 || major == 1 && minor < 2
}
