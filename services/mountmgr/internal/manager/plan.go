package manager

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/juicefs-csi/driver/libs/volume"
)

// hidden is shown in place of what is secret or not text.
const hidden = "(hidden)"

// Change is one difference between the running settings and the present ones.
type Change struct {
	// Field is written as users write it, where they do.
	Field    string
	Old, New string
	// NeedsRemount is true for what the kernel or an open file knows already.
	NeedsRemount bool
}

// Plan is what an upgrade would do.
type Plan struct {
	Changes []Change
	// CanHandOver is false when a change needs a new mount; Message says why.
	CanHandOver bool
	Message     string
	// ExpectedPause is the longest of the last hand-overs; 0 when there was none.
	ExpectedPause time.Duration
}

// newPlan compares settings.
func newPlan(running, wanted volume.Settings) Plan {
	plan := Plan{CanHandOver: true}
	older, newer := describeSettings(running), describeSettings(wanted)
	names := maps.Clone(older)
	maps.Copy(names, newer)
	var remount []string
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if older[name] == newer[name] {
			continue
		}
		change := Change{
			Field: name, Old: older[name].shown(), New: newer[name].shown(),
			NeedsRemount: older[name].fixed || newer[name].fixed,
		}
		plan.Changes = append(plan.Changes, change)
		if change.NeedsRemount {
			remount = append(remount, name)
		}
	}
	if len(remount) > 0 {
		plan.CanHandOver = false
		plan.Message = "a mount cannot change " + strings.Join(remount, ", ") +
			" while it is used: delete the application pods that use it, and new ones get a mount with the new settings"
	}
	return plan
}

// value is one setting.
type value struct {
	text string
	// secret values are compared and never shown.
	secret bool
	// fixed values belong to the connection, not to its client.
	fixed bool
}

func (v value) shown() string {
	if v.secret && v.text != "" {
		return hidden
	}
	return v.text
}

// describeSettings lists all that a client or its pod is made from.
func describeSettings(s volume.Settings) map[string]value {
	values := describePod(s.Pod)
	fixed := func(name string, text any) { values[name] = value{text: fmt.Sprint(text), fixed: true} }
	fixed("name", s.FileSystem)
	fixed("uniqueID", s.UniqueID)
	fixed("read-only", s.ReadOnly)
	fixed("kernel mount source", s.Kernel.Source)
	fixed("kernel mount flags", fmt.Sprintf("%#x", s.Kernel.Flags))
	fixed("kernel mount max_read", s.Kernel.MaxRead)
	fixed("kernel mount default_permissions", s.Kernel.DefaultPermissions)
	fixed("kernel mount writeback_cache", s.Kernel.WritebackCache)
	values["crash-protection"] = value{text: string(s.Protection)}
	values["juicefs/mount-delete-delay"] = value{text: s.DeleteDelay.String()}
	values["juicefs/clean-cache"] = value{text: fmt.Sprint(s.CleanCache)}
	values["warm-standby"] = value{text: fmt.Sprint(s.WarmStandby)}
	// Who makes the kernel mount.
	fixed("privileged", s.Classic)
	for name, text := range mountOptions(s.Client) {
		// The directory that is the root of the mount.
		values["mountOptions["+name+"]"] = value{text: text, fixed: name == "subdir"}
	}
	if len(s.Client) > 1 && s.Edition != volume.Enterprise {
		values["metaurl"] = value{text: s.Client[1], secret: true, fixed: true}
	}
	for _, variable := range s.Env {
		values["envs["+variable.Name+"]"] = value{text: "=" + variable.Value, secret: true}
	}
	for _, file := range s.Files {
		values["configs["+file.Path+"]"] = value{text: string(file.Content), secret: true}
	}
	return values
}

func describePod(shape volume.PodShape) map[string]value {
	values := describeShape(shape)
	maps.Copy(values, map[string]value{
		"image": {text: shape.Image}, "imagePullPolicy": {text: shape.ImagePullPolicy},
		"serviceAccount": {text: shape.ServiceAccount}, "priorityClassName": {text: shape.PriorityClass},
		"terminationGracePeriodSeconds": {text: fmt.Sprint(shape.TerminationGracePeriodSeconds)},
		"hostNetwork":                   {text: fmt.Sprint(shape.HostNetwork)},
		"hostPaths":                     {text: strings.Join(shape.HostPaths, ",")},
		"cacheDirs":                     {text: strings.Join(shape.CacheDirs, ",")},
		"metricsPort":                   {text: fmt.Sprint(shape.MetricsPort)},
	})
	for _, group := range []struct {
		field string
		texts map[string]string
	}{
		{"labels", shape.Labels},
		{"annotations", shape.Annotations},
		{"resources.requests", shape.Resources.Requests},
		{"resources.limits", shape.Resources.Limits},
	} {
		for key, text := range group.texts {
			values[group.field+"["+key+"]"] = value{text: text}
		}
	}
	for _, secret := range shape.SecretVolumes {
		values["configs["+secret.Path+"]"] = value{text: "Secret " + secret.Name}
	}
	return values
}

// mountOptions reads the options of the client's argument vector; see
// volume.Settings.
func mountOptions(argv []string) map[string]string {
	options := make(map[string]string)
	if len(argv) == 0 {
		return options
	}
	for item := range strings.SplitSeq(argv[len(argv)-1], ",") {
		name, text, hasValue := strings.Cut(item, "=")
		if !hasValue {
			text = "true"
		}
		if name != "" {
			options[name] = text
		}
	}
	return options
}
