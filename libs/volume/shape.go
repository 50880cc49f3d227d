package volume

import (
	"cmp"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxID is the largest uid and gid that Kubernetes takes.
const maxID = 1<<31 - 1

// shapeFromAttributes reads what attributes say about the mount pod.
func shapeFromAttributes(in Inputs, edition Edition, attributes lookup, faults *faults) PodShape {
	image := in.Defaults.CommunityImage
	if edition == Enterprise {
		image = in.Defaults.EnterpriseImage
	}
	shape := PodShape{
		Image:          cmp.Or(attributes.value(attributeImage), image),
		ServiceAccount: cmp.Or(attributes.value(attributeServiceAccount), in.Defaults.ServiceAccount),
		PriorityClass:  in.Defaults.PriorityClass,
		Labels:         stringMapAttribute(attributes, attributeLabels, faults),
		Annotations:    stringMapAttribute(attributes, attributeAnnotations, faults),
		Resources:      readResources(attributes, faults),
		RunAsUser:      idAttribute(attributes, attributeRunAsUser, faults),
		RunAsGroup:     idAttribute(attributes, attributeRunAsGroup, faults),
		FSGroup:        idAttribute(attributes, attributeFSGroup, faults),
	}
	for dir := range strings.SplitSeq(attributes.value(attributeHostPath), ",") {
		dir = strings.TrimSpace(dir)
		if dir == "" {
			continue
		}
		if !isCleanAbsolute(dir) {
			attributes.fault(faults, attributeHostPath, "%q is not an absolute path without . and ..", dir)
			continue
		}
		shape.HostPaths = append(shape.HostPaths, path.Clean(dir))
	}
	slices.Sort(shape.HostPaths)
	shape.HostPaths = slices.Compact(shape.HostPaths)
	return shape
}

func stringMapAttribute(attributes lookup, key string, faults *faults) map[string]string {
	text := attributes.value(key)
	if text == "" {
		return map[string]string{}
	}
	values, err := parseStringMap(text)
	if err != nil {
		attributes.fault(faults, key, "%q is not a JSON or YAML map of names to values", text)
		return map[string]string{}
	}
	return values
}

func idAttribute(attributes lookup, key string, faults *faults) *int64 {
	text := attributes.value(key)
	if text == "" {
		return nil
	}
	id, err := strconv.ParseInt(text, 10, 64)
	if err != nil || id < 0 || id > maxID {
		attributes.fault(faults, key, "%q is not a number from 0 to %d", text, maxID)
		return nil
	}
	return &id
}

func boolAttribute(attributes lookup, key string, faults *faults) bool {
	text := attributes.value(key)
	if text == "" {
		return false
	}
	value, err := strconv.ParseBool(text)
	if err != nil {
		attributes.fault(faults, key, "%q is neither true nor false", text)
	}
	return value
}

// readLife reads what attributes say about the end and the recovery of a mount.
func readLife(attributes lookup, settings *Settings, faults *faults) {
	if text := attributes.value(attributeDeleteDelay); text != "" {
		delay, err := parseDelay(text)
		if err != nil {
			attributes.fault(faults, attributeDeleteDelay, "%q is not a duration such as 5m or 1h30m", text)
		}
		settings.DeleteDelay = delay
	}
	settings.CleanCache = boolAttribute(attributes, attributeCleanCache, faults)
	settings.Protection = ProtectFull
	if text := attributes.value(attributeProtection); text != "" {
		settings.Protection = Protection(text)
		if !slices.Contains([]Protection{ProtectFull, ProtectSession, ProtectConnection}, settings.Protection) {
			attributes.fault(faults, attributeProtection, "%q is none of full, session, connection", text)
		}
	}
	settings.WarmStandby = boolAttribute(attributes, attributeWarmStandby, faults)
}

// Annotations of mount pods that are settings: the existing driver reads them
// from the ConfigMap so.
const (
	annotationDeleteDelay = "juicefs-delete-delay"
	annotationCleanCache  = "juicefs-clean-cache"
)

// readLifeAnnotations reads the settings among the annotations of mount pods.
func readLifeAnnotations(annotations map[string]string, settings *Settings, faults *faults) {
	if text := annotations[annotationDeleteDelay]; text != "" {
		delay, err := parseDelay(text)
		if err != nil {
			faults.add(sourcePodAnnotation, annotationDeleteDelay, "%q is not a duration such as 5m or 1h30m", text)
		}
		settings.DeleteDelay = delay
	}
	if text := annotations[annotationCleanCache]; text != "" {
		clean, err := strconv.ParseBool(text)
		if err != nil {
			faults.add(sourcePodAnnotation, annotationCleanCache, "%q is neither true nor false", text)
		}
		settings.CleanCache = clean
	}
}

func parseDelay(text string) (time.Duration, error) {
	delay, err := time.ParseDuration(text)
	if err != nil || delay < 0 {
		return 0, strconv.ErrRange
	}
	return delay, nil
}
