// Package passwd is PURE: it looks up users and groups in an image's /etc/passwd and /etc/group
// (passwd(5), group(5)).
package passwd

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nodeagent/nodeagent/pkg/runtime"
)

// ErrUnknown is wrapped if the image has no such user or group.
var ErrUnknown = errors.New("the image has no such entry")

// Database is the content of the two files. The zero value has no entries.
type Database struct {
	users  []user
	groups []group
}

type user struct {
	name     string
	uid, gid uint32
	home     string
}

type group struct {
	name    string
	gid     uint32
	members []string
}

// Parse reads both files. It skips malformed lines, as the C library does.
func Parse(passwd, groups []byte) Database {
	var d Database
	for f := range fields(passwd, 6) {
		uid, err1 := number(f[2])
		gid, err2 := number(f[3])
		if err1 == nil && err2 == nil {
			d.users = append(d.users, user{name: f[0], uid: uid, gid: gid, home: f[5]})
		}
	}
	for f := range fields(groups, 3) {
		gid, err := number(f[2])
		if err != nil {
			continue
		}
		g := group{name: f[0], gid: gid}
		if len(f) > 3 && f[3] != "" {
			g.members = strings.Split(f[3], ",")
		}
		d.groups = append(d.groups, g)
	}
	return d
}

// fields yields the fields of each line that has a name and at least n fields.
func fields(file []byte, n int) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for line := range strings.Lines(string(file)) {
			f := strings.Split(strings.TrimSpace(line), ":")
			if len(f) < n || f[0] == "" || f[0][0] == '#' {
				continue
			}
			if !yield(f) {
				return
			}
		}
	}
}

func number(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > 1<<31-1 { // ids are signed for the OCI runtime
		return 0, fmt.Errorf("%q is not an id", s)
	}
	return uint32(n), nil
}

// Lookup resolves "", "uid" or "name", each optionally with ":gid" or ":group". "" is root. Numbers
// need no entry; names do. Groups are the supplementary groups of the user's name in /etc/group, in
// order, without the primary one.
func (d Database) Lookup(who string) (runtime.User, error) {
	name, groupName, hasGroup := strings.Cut(who, ":")
	u, err := d.user(name)
	if err != nil {
		return runtime.User{}, err
	}
	found := runtime.User{UID: u.uid, GID: u.gid, Name: u.name, Home: u.home}
	if hasGroup && groupName != "" {
		if found.GID, err = d.group(groupName); err != nil {
			return runtime.User{}, err
		}
	}
	if found.Home == "" {
		found.Home = "/"
	}
	for _, g := range d.groups {
		if u.name != "" && g.gid != found.GID && slices.Contains(g.members, u.name) && !slices.Contains(found.Groups, g.gid) {
			found.Groups = append(found.Groups, g.gid)
		}
	}
	return found, nil
}

func (d Database) user(name string) (user, error) {
	if name == "" {
		name = "0"
	}
	for _, u := range d.users {
		if u.name == name {
			return u, nil
		}
	}
	uid, err := number(name)
	if err != nil {
		return user{}, fmt.Errorf("unable to find user %s in /etc/passwd: %w", name, ErrUnknown)
	}
	for _, u := range d.users {
		if u.uid == uid {
			return u, nil
		}
	}
	return user{uid: uid}, nil
}

func (d Database) group(name string) (uint32, error) {
	for _, g := range d.groups {
		if g.name == name {
			return g.gid, nil
		}
	}
	gid, err := number(name)
	if err != nil {
		return 0, fmt.Errorf("unable to find group %s in /etc/group: %w", name, ErrUnknown)
	}
	return gid, nil
}
