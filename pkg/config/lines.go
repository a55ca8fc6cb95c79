package config

import (
	"fmt"
	"reflect"
	"sort"
)

// Lines prints a configuration as sorted lines "Proxy.Rules.MasqueradeBit = 14", for people and
// for tests.
func Lines(c Config) []string {
	var lines []string
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		_, text := v.Interface().(fmt.Stringer)
		switch {
		case v.Kind() == reflect.Struct && !text:
			for i := range v.NumField() {
				name := v.Type().Field(i).Name
				if path != "" {
					name = path + "." + name
				}
				walk(name, v.Field(i))
			}
		case v.Kind() == reflect.String:
			lines = append(lines, fmt.Sprintf("%s = %q", path, v.String()))
		default:
			lines = append(lines, fmt.Sprintf("%s = %v", path, printable(v)))
		}
	}
	walk("", reflect.ValueOf(c))
	return lines
}

// printable sorts maps whose values do not print well by themselves.
func printable(v reflect.Value) any {
	if v.Kind() != reflect.Map {
		return v.Interface()
	}
	entries := make([]string, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		value := it.Value().Interface()
		copied := reflect.New(it.Value().Type())
		copied.Elem().Set(it.Value())
		if s, ok := copied.Interface().(fmt.Stringer); ok {
			value = s.String()
		}
		entries = append(entries, fmt.Sprintf("%v:%v", it.Key(), value))
	}
	sort.Strings(entries)
	return entries
}
